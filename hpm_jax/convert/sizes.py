"""Infers the sizes of a checkpoint from its shapes, hints, or defaults."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.convert.weights import WeightsError
from hpm_jax.errors import ConfigError
from hpm_jax.fields import build
from hpm_jax.models.layouts import VARIANT, EncoderVariant
from hpm_jax.models.sizes import SIZES

Sizes = Mapping[str, dict[str, int]]


class Hints(NamedTuple):
    """Sizes that shapes do not determine, from the user, a config or our own files; else None."""

    heads: int | None = None  # of the encoder
    decoder_heads: int | None = None
    grid: tuple[int, int] | None = None  # rows and columns of patches
    frames: int | None = None  # of a clip
    target_values: int | None = None  # of a decoder that does not rebuild pixels
    options: Mapping[str, Any] | None = None  # of the encoder, see `EncoderVariant`

    def before(self, others: "Hints") -> "Hints":
        """Returns these hints, falling back to `others`."""
        given = {name: value for name, value in self._asdict().items() if value}
        if self.options and others.options:
            given["options"] = {**others.options, **self.options}
        return others._replace(**given)


def hints_of(note: Any) -> Hints:
    """Returns the hints of our own files: the `Architecture` stored beside the weights, or {}.

    Raises:
        WeightsError: for an invalid note.
    """
    if not note:
        return Hints()
    if not isinstance(note, Mapping):
        raise WeightsError(f"it holds a {type(note).__name__}, expected the sizes by name")
    grid = note.get("grid")
    if not isinstance(grid, list | tuple) or len(grid) != 3:
        raise WeightsError(f"grid is {grid!r}, expected three whole numbers")
    frames, rows, columns = (whole_number("grid", side, 1) for side in grid)
    return Hints(
        whole_number("heads", note.get("heads"), 1),
        whole_number("decoder_heads", note.get("decoder_heads"), 0),
        (rows, columns),
        frames * whole_number("tubelet", note.get("tubelet", 1), 1),
        whole_number("target_values", note.get("target_values") or 0, 0) or None,
        told_options(note),
    )


def told_options(note: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of an encoder in `note`, checked.

    Raises:
        WeightsError: for a value of the wrong type or outside its bounds.
    """
    told = {name: note[name] for name in VARIANT if note.get(name) is not None}
    try:
        checked = build(EncoderVariant, told, "encoder")
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    return {name: getattr(checked, name) for name in told}


def whole_number(name: str, value: Any, low: int) -> int:
    """Returns `value` if it is an integer from `low` to a million.

    Raises:
        WeightsError: for any other value.
    """
    if type(value) is not int or not low <= value <= 10**6:
        raise WeightsError(f"{name} is {value!r}, expected a whole number from {low} to 1000000")
    return value


def encoder_heads(width: int, heads: int | None) -> int:
    """Returns the given heads, else those of a known width, else one head per 64 values."""
    known = {size["width"]: size["heads"] for size in SIZES.values()}
    heads = heads or known.get(width) or (width // 64 if width % 64 == 0 else None)
    if not heads:
        raise WeightsError(
            f"the width is {width}, of no known size, and the number of heads is not in the "
            "shapes: give it (--heads N)"
        )
    return _check_heads(width, heads)


def decoder_heads(width: int, heads: int | None, sizes: Sizes = SIZES) -> int:
    """Returns the given heads, else those of a decoder of that width in `sizes`, else 0."""
    known = {size["decoder_width"]: size["decoder_heads"] for size in sizes.values()}
    return _check_heads(width, heads or known.get(width, 0)) if width else 0


def _check_heads(width: int, heads: int) -> int:
    if heads and (heads < 0 or width % heads):
        raise WeightsError(f"width {width} does not split into {heads} heads")
    return heads


def rows_and_columns(length: int, positions: str, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the grid of one frame of `length` patches: the given one, else a square.

    Args:
        positions: name of the tensor with that length, for the message.
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
    """Returns width, channels, frames and rows of a patch, from the convolution over a clip."""
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
    """Returns the number of values that a decoder predicts per patch; 0 for all of its pixels.

    For other targets than pixels the number is in our own note.
    """
    rebuilt = len(state[name])
    if rebuilt not in (values, values // frames, hints.target_values):
        raise WeightsError(
            f"{name} has shape {state[name].shape}: expected {values} rows, the values of a patch, "
            f"or {values // frames}, those of one of its frames"
        )
    return 0 if rebuilt == values else rebuilt


def require(state: Mapping[str, np.ndarray], names: list[str]) -> None:
    """Raises a `WeightsError` if a name that determines the sizes is missing."""
    if missing := [name for name in names if name not in state]:
        raise WeightsError(f"{few(missing)} is missing; the names found are {few(state)}")


def few(names: Collection[str], count: int = 6) -> str:
    """Returns the first names, and the number of others."""
    listed = ", ".join(list(names)[:count])
    return listed + (f" and {len(names) - count} more" if len(names) > count else "")
