"""What is written of images that have been encoded."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpm_jax.storage import put_in_place


class Rows(NamedTuple):
    """Images that have been encoded, and those that could not be read."""

    names: list[str]
    labels: np.ndarray  # [n] int32, -1 unknown
    features: np.ndarray | None  # [n, ...] float32 or float16; None where not asked for
    left_out: dict[int, str]  # index of the record: its name, and why


def as_left_out(found: Mapping[str, str]) -> dict[int, str]:
    """`Rows.left_out` as it was before JSON made strings of the numbers."""
    return {int(index): name for index, name in found.items()}


@contextlib.contextmanager
def beside_of(path: Path) -> Iterator[Path]:
    """A file beside `path`, which takes its place when the block has ended well."""
    beside = path.with_name(f".{path.name}.new")
    try:
        yield beside
        put_in_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)
