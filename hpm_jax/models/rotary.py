"""Axial rotary positions of image patches."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.models.attention import Rotation
from hpm_jax.tokens import AnyArray, Grid


def rotary_angles(head: int, grid: Grid, base: float) -> np.ndarray:
    """Returns the angles of all patches, float32 `[L, head / 2]`, in raster order (DINOv3).

    A patch in row i of h and column j of w is at `y = 2 (i + 1/2) / h - 1`, `x = 2 (j + 1/2) / w -
    1`: its centre, from -1 to 1 in images of any size. Its angles are `2 pi y f_k`, then `2 pi x
    f_k`, with `f_k = base^(-4 k / head)` for k = 0 ... head / 4 - 1. The m-th angle turns the plane
    of places m and m + head / 2 of every query and key, so a score depends on the difference of two
    positions alone (Su et al. 2021, RoFormer).

    Raises:
        ValueError: for a head width that is not a multiple of 4, or a grid of several frames.
    """
    if head % 4 or grid[0] != 1:
        raise ValueError(
            f"rotary positions need heads of a multiple of 4 values and one frame, not {head} "
            f"values and {grid[0]} frames"
        )
    rows, columns = (2 * (np.arange(side) + 0.5) / side - 1 for side in grid[1:])
    y, x = np.meshgrid(rows, columns, indexing="ij")
    frequencies = base ** (-4 * np.arange(head // 4) / head)
    angles = [2 * np.pi * axis.reshape(-1, 1) * frequencies for axis in (y, x)]
    return np.concatenate(angles, axis=1).astype(np.float32)


def rotation_of(angles: np.ndarray, extra: int, keep: AnyArray | None = None) -> Rotation:
    """Returns cosines and sines `[1 or B, 1, extra + K, head / 2]` for the tokens of an encoder.

    Args:
        angles: from `rotary_angles`.
        extra: number of tokens before the patches, which are not rotated.
        keep: `[B, K]` indices of the patches; None for all.
    """
    table: Array = jnp.asarray(angles)
    table = table[None] if keep is None else table[keep]
    table = jnp.pad(table, ((0, 0), (extra, 0), (0, 0)))[:, None]
    return jnp.cos(table), jnp.sin(table)
