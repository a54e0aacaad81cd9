"""Features of two splits in one `.npz`, so that probes run again without the encoder."""

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

# Options that change no feature: how training images are cut, and how many are encoded at once.
NO_MATTER = ("batch_size", "max_broken", "flip", "crop", "crop_scale", "crop_ratio", "clips")


class SplitFeatures(NamedTuple):
    """The features of both splits, and what could not be read."""

    train: np.ndarray  # [N, D], or tokens [N, L, D]
    train_labels: np.ndarray  # [N] int32
    test: np.ndarray
    test_labels: np.ndarray
    unread: tuple[str, ...]


def origin(config: Any, weights: Weights, how: str) -> dict[str, Any]:
    """What features depend on: the weights, by a checksum, and the options of features and data.

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
    return json.loads(json.dumps(found))  # tuples become lists, as they are read again


def write_features(path: Path, features: SplitFeatures, made_by: dict[str, Any]) -> None:
    """Writes the file whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new.npz")
    arrays = features._asdict() | {"unread": np.array(features.unread, dtype=np.str_)}
    np.savez(beside, **arrays, made_by=json.dumps(made_by))
    os.replace(beside, path)


def read_features(path: Path, expected: dict[str, Any]) -> SplitFeatures:
    """The features in a file.

    Args:
        expected: the `origin` that they should have.

    Raises:
        ConfigError: where they have another one, or the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*SplitFeatures._fields, "made_by")}
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise ConfigError(
            f"config.features_file = {str(path)!r} holds no features that can be read "
            f"({type(error).__name__}): remove it, or name another file"
        ) from None
    made_by = json.loads(str(arrays.pop("made_by")))
    keys = made_by.keys() | expected.keys()
    if differing := sorted(key for key in keys if made_by.get(key) != expected.get(key)):
        key = differing[0]
        raise ConfigError(
            f"config.features_file = {str(path)!r} was made with other options: {key} is "
            f"{made_by.get(key)!r} there and {expected.get(key)!r} here; name another file"
        )
    unread = tuple(str(name) for name in arrays.pop("unread"))
    return SplitFeatures(**arrays, unread=unread)
