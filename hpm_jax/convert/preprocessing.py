"""Normalisation and crop of a published model's images: read from files, or by convention."""

import math
from pathlib import Path
from typing import Any

from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD
from hpm_jax.convert.towers import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD
from hpm_jax.convert.weights import Architecture, WeightsError
from hpm_jax.text_files import read_json

MAE_ST_MEAN, MAE_ST_STD = (0.45,) * 3, (0.225,) * 3  # mae_st, util/kinetics.py


def normalization(path: Path, architecture: Architecture) -> dict[str, tuple[float, ...]]:
    """Returns `mean` and `std` of the model at `path`, a file or a folder; {} if unknown.

    A folder of timm has them in `config.json`, one of Hugging Face in `preprocessor_config.json`.
    The official checkpoints have none; they are inferred from the layout: those of ImageNet, except
    for mae_st, CLIP (a norm before the first block) and SigLIP (no cls token, and GELU by tanh).
    Many of timm's models use 0.5, which is stored in the folder only.
    """
    told = _pretrained_cfg(path) or _preprocessor(path) or _open_clip(path)
    mean, std = told.get("mean", told.get("image_mean")), told.get("std", told.get("image_std"))
    if mean is not None and std is not None:
        for values in (mean, std):
            numbers = isinstance(values, list) and all(isinstance(x, int | float) for x in values)
            if not numbers or any(not math.isfinite(x) for x in values):
                raise WeightsError(
                    f"{path} says that images are normalised by {values!r}: expected one number "
                    "for each channel"
                )
        if len(mean) == len(std) == architecture.channels:
            return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    if architecture.channels != 3:
        return {}
    if architecture.layout == "mae_st":
        return {"mean": MAE_ST_MEAN, "std": MAE_ST_STD}
    if architecture.pre_norm:
        return {"mean": CLIP_MEAN, "std": CLIP_STD}
    if is_siglip(architecture):
        return {"mean": SIGLIP_MEAN, "std": SIGLIP_STD}
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def is_siglip(architecture: Architecture) -> bool:
    """Whether an encoder has the options of SigLIP's."""
    a = architecture
    return a.layout == "mae" and not a.cls_token and a.mlp == "gelu_tanh"


def test_crop(path: Path, architecture: Architecture, image_size: tuple[int, int]) -> float:
    """Returns the test crop of `image_size` as a fraction of the short side.

    It is timm's `crop_pct`, if the folder has it and the size is the model's own; or the ratio of
    Hugging Face's crop and resize, 1 without a crop, as for its ViTs. Otherwise it is 0.875 up to
    224 pixels and 1 above (MAE, util/datasets.py), and 1 for videos (VideoMAE, kinetics.py, and
    mae_st), CLIP and SigLIP.
    """
    own = _pretrained_cfg(path)
    share, size = own.get("crop_pct"), own.get("input_size")
    if share and isinstance(size, list) and tuple(size[1:]) == tuple(image_size):
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise WeightsError(
                f"{path / 'config.json'}: crop_pct is {share!r}, expected a share up to 1"
            )
        return float(share)
    if told := _preprocessor(path):
        return _share(told)
    video = architecture.grid[0] * architecture.tubelet > 1
    whole = video or architecture.pre_norm or is_siglip(architecture)
    return 1.0 if whole or min(image_size) > 224 else 0.875


def _pretrained_cfg(path: Path) -> dict[str, Any]:
    """timm's description of a model in its folder; {} elsewhere."""
    found = _json(path / "config.json").get("pretrained_cfg") if path.is_dir() else None
    if found is not None and not isinstance(found, dict):
        raise WeightsError(
            f"{path / 'config.json'}: pretrained_cfg is a {type(found).__name__}, expected "
            "options by name"
        )
    return found or {}


def _preprocessor(path: Path) -> dict[str, Any]:
    """Hugging Face's description of the inputs of a model in its folder; {} elsewhere."""
    return _json(path / "preprocessor_config.json") if path.is_dir() else {}


def _share(told: dict[str, Any]) -> float:
    """Of the short side, where Hugging Face's description resizes that and crops; else 1."""
    size, crop = told.get("size"), told.get("crop_size")
    if told.get("do_center_crop") and isinstance(size, dict) and isinstance(crop, dict):
        before, after = size.get("shortest_edge", size.get("height")), crop.get("height")
        if isinstance(before, int) and isinstance(after, int) and 0 < after < before:
            return after / before
    return 1.0


def _open_clip(path: Path) -> dict[str, Any]:
    """open_clip's description of the inputs of a model in its folder; {} elsewhere."""
    found = _json(path / "open_clip_config.json").get("preprocess_cfg") if path.is_dir() else None
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, WeightsError) if path.exists() else {}
