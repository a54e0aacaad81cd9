"""The sizes of a checkpoint: from its shapes, as somebody says, or by rule."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.convert.weights import WeightsError
from hpm_jax.models.sizes import SIZES

Sizes = Mapping[str, dict[str, int]]


class Hints(NamedTuple):
    """What the shapes do not tell, and a person, a config or our own note may; else None."""

    heads: int | None = None  # of the encoder
    decoder_heads: int | None = None
    grid: tuple[int, int] | None = None  # rows and columns of patches
    frames: int | None = None  # of a clip
    target_values: int | None = None  # of a decoder that does not rebuild pixels

    def before(self, others: "Hints") -> "Hints":
        """These, and where they are silent the others."""
        given = {name: value for name, value in self._asdict().items() if value}
        return others._replace(**given)


def hints_of(note: dict[str, Any]) -> Hints:
    """What our own files say: the `Architecture` that stands beside the weights, or {}."""
    if not note:
        return Hints()
    frames, *grid = note["grid"]
    return Hints(
        note["heads"],
        note["decoder_heads"],
        tuple(grid),
        frames * note.get("tubelet", 1),
        note.get("target_values"),
    )


def encoder_heads(width: int, heads: int | None) -> int:
    """Those given, else those of a known width, else one for 64 values."""
    known = {size["width"]: size["heads"] for size in SIZES.values()}
    heads = heads or known.get(width) or (width // 64 if width % 64 == 0 else None)
    if not heads:
        raise WeightsError(
            f"the width is {width}, of no known size, and the number of heads is not in the "
            "shapes: give it (--heads N)"
        )
    return _check_heads(width, heads)


def decoder_heads(width: int, heads: int | None, sizes: Sizes = SIZES) -> int:
    """Those given, else those of a decoder of that width in `sizes`, else 0 for unknown ones."""
    known = {size["decoder_width"]: size["decoder_heads"] for size in sizes.values()}
    return _check_heads(width, heads or known.get(width, 0)) if width else 0


def _check_heads(width: int, heads: int) -> int:
    if heads and (heads < 0 or width % heads):
        raise WeightsError(f"width {width} does not split into {heads} heads")
    return heads


def rows_and_columns(length: int, positions: str, grid: tuple[int, int] | None) -> tuple[int, int]:
    """The grid of one frame of `length` patches: the one given, else a square.

    Args:
        positions: what has that length, for the message.
    """
    side = math.isqrt(max(length, 0))
    if grid is None and side**2 != length:
        raise WeightsError(
            f"{positions}, which is no square: give the grid (--grid ROWS COLUMNS), if these are "
            "the patches of oblong images"
        )
    rows, columns = grid or (side, side)
    if rows * columns != length:
        raise WeightsError(f"{positions}, expected {rows} x {columns} = {rows * columns}")
    return rows, columns


def clip_patch(state: Mapping[str, np.ndarray]) -> tuple[int, int, int, int]:
    """Width, channels, frames and rows of a patch, from the convolution over a clip."""
    shape = state["patch_embed.proj.weight"].shape
    if len(shape) != 5 or shape[3] != shape[4]:
        raise WeightsError(
            f"patch_embed.proj.weight has shape {shape}: expected (width, channels, frames, p, p), "
            "a convolution over square patches of a clip"
        )
    return shape[:4]


def target_values(
    state: Mapping[str, np.ndarray], name: str, frames: int, values: int, hints: Hints
) -> int:
    """How many values of a patch a decoder's head gives; 0 for all, those of all its frames.

    Another target than pixels has as many as our own note says.
    """
    rebuilt = len(state[name])
    if rebuilt not in (values, values // frames, hints.target_values):
        raise WeightsError(
            f"{name} has shape {state[name].shape}: expected {values} rows, the values of a patch, "
            f"or {values // frames}, those of one of its frames"
        )
    return 0 if rebuilt == values else rebuilt


def require(state: Mapping[str, np.ndarray], names: list[str]) -> None:
    """Raises a `WeightsError` where one of the names that tell the sizes is missing."""
    if missing := [name for name in names if name not in state]:
        raise WeightsError(f"{few(missing)} is missing; the names found are {few(state)}")


def few(names: Collection[str], count: int = 6) -> str:
    """The first names, and how many more there are."""
    listed = ", ".join(list(names)[:count])
    return listed + (f" and {len(names) - count} more" if len(names) > count else "")
