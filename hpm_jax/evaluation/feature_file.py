"""Stores features of two splits in one `.npz`, so that probes can be rerun without the encoder."""

import contextlib
import dataclasses
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.config import ConfigError
from hpm_jax.convert.weights import Weights
from hpm_jax.storage import reported
from hpm_jax.text_files import parse_json

# Options that do not change features: training crops and batch sizes.
NO_MATTER = (
    "batch_size",
    "max_broken",
    "max_pixels",
    "flip",
    "crop",
    "crop_scale",
    "crop_ratio",
    "clips",
)


class SplitFeatures(NamedTuple):
    """The features of both splits, and the unreadable images."""

    train: np.ndarray  # [N, D], or tokens [N, L, D]
    train_labels: np.ndarray  # [N] int32
    test: np.ndarray
    test_labels: np.ndarray
    unread: tuple[str, ...]


def origin(config: Any, weights: Weights, how: str) -> dict[str, Any]:
    """Returns what features depend on: a checksum of the weights, and feature and data options.

    Args:
        how: "cls", "mean", "both" or "tokens".
    """
    checksum = 0
    for leaf in jax.tree.leaves(weights.params["encoder"]):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).data, checksum)
    found: dict[str, Any] = {"weights": checksum, "features.pool": how}
    for section in ("features", "data"):
        options = dataclasses.asdict(getattr(config, section)).items()
        found |= {f"{section}.{k}": v for k, v in options if k not in (*NO_MATTER, "pool")}
    return json.loads(json.dumps(found))  # tuples become lists, as in a file


def write_features(path: Path, features: SplitFeatures, made_by: dict[str, Any]) -> None:
    """Writes the file atomically.

    Raises:
        StorageError: if it cannot be written.
    """
    beside = path.with_name(f".{path.name}.new.npz")
    arrays = features._asdict() | {"unread": np.array(features.unread, dtype=np.str_)}
    with reported(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(beside, **arrays, made_by=json.dumps(made_by))
            os.replace(beside, path)
        finally:
            with contextlib.suppress(OSError):  # it exists only after a failure
                beside.unlink()


def read_features(path: Path, expected: dict[str, Any]) -> SplitFeatures:
    """Reads the features from a file.

    Args:
        expected: the required `origin`.

    Raises:
        ConfigError: if the origin differs, or the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*SplitFeatures._fields, "made_by")}
        made_by = parse_json(str(arrays.pop("made_by")), "its made_by", ConfigError)
    except Exception as error:  # readers raise many kinds for a damaged or foreign file
        raise ConfigError(
            f"config.features_file = {str(path)!r} holds no features that can be read "
            f"({type(error).__name__}): remove it, or name another file"
        ) from None
    keys = made_by.keys() | expected.keys()
    if differing := sorted(key for key in keys if made_by.get(key) != expected.get(key)):
        key = differing[0]
        raise ConfigError(
            f"config.features_file = {str(path)!r} was made with other options: {key} is "
            f"{made_by.get(key)!r} there and {expected.get(key)!r} here; name another file"
        )
    unread = tuple(str(name) for name in arrays.pop("unread"))
    return SplitFeatures(**arrays, unread=unread)
