"""Patch positions: frozen sines and cosines, and the resizing of learned ones."""

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.tokens import Grid


def sincos_1d(width: int, positions: np.ndarray) -> np.ndarray:
    """`[sin(p w_k), cos(p w_k)]` with `w_k = 10000^(-k / (width / 2))`: `[N]` to `[N, width]`."""
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = positions[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(width: int, grid: Grid) -> np.ndarray:
    """Returns positions of image patches (MAE, appendix A.1), float32 `[L, width]`, raster order.

    The first half of the width encodes the column, the second half the row ("w first"). Computed
    in float64 and rounded once, as the official code does.

    Raises:
        ValueError: if the width is not a multiple of 4, or the grid has several frames.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    frames, height, columns = grid
    if frames != 1:
        raise ValueError(
            f"two-dimensional positions are for one frame, not {frames}: for videos use the "
            "layout videomae or mae_st"
        )
    row, column = np.meshgrid(np.arange(height), np.arange(columns), indexing="ij")
    halves = [sincos_1d(width // 2, axis.reshape(-1)) for axis in (column, row)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def sinusoid(width: int, grid: Grid) -> np.ndarray:
    """Returns positions of video patches by their index (VideoMAE), float32 `[L, width]`.

    `sin` at even, `cos` at odd places j of `p / 10000^(2 floor(j / 2) / width)`, where p counts the
    patches in the order (t, h, w).
    """
    place = np.arange(width)
    position = np.arange(grid[0] * grid[1] * grid[2])[:, None]
    angles = position / 10000.0 ** (2 * (place // 2) / width)
    return np.where(place % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


CONSTANT = {"sincos": sincos_2d, "sinusoid": sinusoid}


def resize_positions(table: np.ndarray, before: Grid, after: Grid) -> np.ndarray:
    """Resizes learned positions `[1, 1 + L, D]` to another grid; a row of cls is unchanged.

    Uses PyTorch's bicubic interpolation without antialiasing, as in MAE (util/pos_embed.py).
    """
    first = table.shape[1] - before[0] * before[1] * before[2]  # 1, or 0 without a cls token
    patches = resize_map(table[:, first:].reshape(*before, -1), after)
    return np.concatenate([table[:, :first], patches.reshape(1, -1, table.shape[-1])], axis=1)


def encoder_on_grid(params: dict, before: Grid, after: Grid) -> dict:
    """Returns the parameters of an encoder with learned positions resized to another grid.

    Constant positions are not parameters and are computed for the new grid.
    """
    params = dict(params)
    if before == after:
        return params
    if "positions" in params:
        params["positions"] = resize_positions(params["positions"], before, after)
    if "positions_time" in params:
        width = params["positions_time"].shape[-1]
        time = params["positions_time"].reshape(before[0], width)
        space = params["positions_space"].reshape(*before[1:], width)
        params["positions_time"] = resize_map(time, after[:1]).reshape(-1, 1, width)
        params["positions_space"] = resize_map(space, after[1:]).reshape(1, -1, width)
    return params


def resize_map(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes positions `[*before, D]` to `[*size, D]`, by PyTorch's bicubic interpolation."""
    method = jax.image.ResizeMethod.CUBIC_PYTORCH
    shape = (*size, values.shape[-1])
    return np.asarray(jax.image.resize(jnp.asarray(values), shape, method, antialias=False))
