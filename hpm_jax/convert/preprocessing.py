"""How the images of a published model are normalised and cropped: read, or by convention."""

import json
from pathlib import Path
from typing import Any

from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD
from hpm_jax.convert.weights import Architecture

MAE_ST_MEAN, MAE_ST_STD = (0.45,) * 3, (0.225,) * 3  # mae_st, util/kinetics.py


def normalization(path: Path, architecture: Architecture) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of what is at `path`, a file or a folder; {} where unknown.

    A folder of timm has them in `config.json`, one of Hugging Face in `preprocessor_config.json`.
    The official checkpoints have none; theirs go by the layout, and are those of ImageNet but for
    mae_st. Many of timm's files alone, without that folder, have other ones: 0.5.
    """
    told = _pretrained_cfg(path) or _preprocessor(path)
    mean, std = told.get("mean", told.get("image_mean")), told.get("std", told.get("image_std"))
    if mean and std and len(mean) == len(std) == architecture.channels:
        return {"mean": tuple(mean), "std": tuple(std)}
    if architecture.channels != 3:
        return {}
    if architecture.layout == "mae_st":
        return {"mean": MAE_ST_MEAN, "std": MAE_ST_STD}
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def test_crop(path: Path, architecture: Architecture, image_size: tuple[int, int]) -> float:
    """The share of the short side that a test crop has, for crops of `image_size`.

    timm's `crop_pct`, where the folder has it and the size is the model's own. Hugging Face's ViTs
    resize without a crop, which is 1 for square images. Else 0.875 up to 224 pixels and 1 above
    (MAE, util/datasets.py), and 1 for videos (VideoMAE, kinetics.py; mae_st).
    """
    own = _pretrained_cfg(path)
    if own.get("crop_pct") and tuple(own.get("input_size", ()))[1:] == tuple(image_size):
        return float(own["crop_pct"])
    if _preprocessor(path):
        return 1.0
    video = architecture.grid[0] * architecture.tubelet > 1
    return 1.0 if video or min(image_size) > 224 else 0.875


def _pretrained_cfg(path: Path) -> dict[str, Any]:
    """timm's description of a model in its folder; {} elsewhere."""
    return _json(path / "config.json").get("pretrained_cfg", {}) if path.is_dir() else {}


def _preprocessor(path: Path) -> dict[str, Any]:
    """Hugging Face's description of the inputs of a model in its folder; {} elsewhere."""
    return _json(path / "preprocessor_config.json") if path.is_dir() else {}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
