"""Arrays in a .npz file that are fitted to training images before a run, for a target."""

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

from hpm_jax.errors import ConfigError
from hpm_jax.storage import as_path, write


def read_array(path: str, name: str, option: str) -> np.ndarray:
    """Returns the array `name` of a .npz file as float32, `[rows, values]`.

    Args:
        path: of the file.
        name: of the array in it.
        option: the option that names the file, to begin the sentence.

    Raises:
        ConfigError: if there is no such file or array, or its values are not finite.
    """
    make = "python -m hpm_jax.targets makes one (docs/targets.md)"
    if not path:
        raise ConfigError(f"{option}: path is empty: expected a .npz file; {make}")
    try:
        found = _array(path, name, as_path(path).stat().st_mtime)
    except Exception as error:  # readers raise many kinds for a file that is none
        kind = "there is no such file" if isinstance(error, FileNotFoundError) else repr(error)
        raise ConfigError(
            f"{option}: cannot read the array {name!r} of {path} ({kind}): {make}"
        ) from None
    if found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise ConfigError(
            f"{option}: the array {name!r} of {path} is {found.dtype} {found.shape}: expected "
            f"finite floats [rows, values]; {make}"
        )
    return found.astype(np.float32)


@functools.lru_cache(maxsize=8)
def _array(path: str, name: str, changed: float) -> np.ndarray:
    """Reads an array, once as long as the file does not change."""
    with as_path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


def check_values(found: np.ndarray, values: int, option: str, what: str) -> None:
    """Raises a `ConfigError` if the rows of a fitted array have another length than the values."""
    if found.shape[1] != values:
        raise ConfigError(
            f"{option}: the rows of the file have {found.shape[1]} values, and {what} {values}: "
            "fit it again with this config"
        )


def write_arrays(path: str | Path, **arrays: Any) -> None:
    """Writes arrays to a .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(as_path(path), buffer.getvalue())
