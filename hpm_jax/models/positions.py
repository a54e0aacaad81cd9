"""Frozen sine-cosine positions (MAE, appendix A.1): constants, never parameters."""

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
    """Positions of an image's patches, float32 `[L, width]`, in raster order.

    The first half of the width encodes the column, the second half the row ("w first"). Computed
    in float64 and rounded once, as the official code does.

    Raises:
        ValueError: where the width is not a multiple of 4, or the grid has several frames.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, not {width}")
    frames, height, columns = grid
    if frames != 1:
        raise ValueError(f"two-dimensional positions are for one frame, not {frames}")
    row, column = np.meshgrid(np.arange(height), np.arange(columns), indexing="ij")
    halves = [sincos_1d(width // 2, axis.reshape(-1)) for axis in (column, row)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def resize_positions(table: np.ndarray, before: Grid, after: Grid) -> np.ndarray:
    """Learned positions `[1, 1 + L, D]` for another grid; the row of the cls token stays.

    PyTorch's bicubic interpolation without antialiasing, as MAE resizes them (util/pos_embed.py).
    """
    patches = jnp.asarray(table[:, 1:]).reshape(1, before[1], before[2], -1)
    shape = (1, after[1], after[2], patches.shape[-1])
    method = jax.image.ResizeMethod.CUBIC_PYTORCH
    patches = jax.image.resize(patches, shape, method, antialias=False)
    return np.concatenate([table[:, :1], np.asarray(patches).reshape(1, -1, shape[-1])], axis=1)
