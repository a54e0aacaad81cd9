"""What a hidden patch should become: its pixels, raw or normalised patch by patch."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.tokens import Grid

Statistics = Callable[[Array, tuple[float, ...]], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Target:
    """Patches, less a mean, over a deviation, both of the patch itself.

    Attributes:
        statistics: `(patches [B, L, P], std)` to mean and deviation, which broadcast to the
            patches and put a rebuilt one back; None for patches as they are. `std` is what the
            channels were divided by.
    """

    statistics: Statistics | None = None

    def __call__(self, patches: Array, std: tuple[float, ...] = (1.0,)) -> Array:
        """The target `[B, L, P]` of normalised patches `[B, L, P]`."""
        if self.statistics is None:
            return patches
        mean, deviation = self.statistics(patches, std)
        return (patches - mean) / deviation


def patch_statistics(patches: Array, std: tuple[float, ...] = (1.0,)) -> tuple[Array, Array]:
    """Mean and `sqrt(var + 1e-6)` of all P values of each patch, `[B, L, 1]`, unbiased (MAE)."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def channel_statistics(patches: Array, std: tuple[float, ...]) -> tuple[Array, Array]:
    """Mean and `sqrt(var) + 1e-6` of each channel of each patch, `[B, L, P]`, unbiased.

    VideoMAE (engine_for_pretraining.py) takes them of pixels in [0, 1], so that the 1e-6 is one of
    those here too: `1e-6 / std` in our units.
    """
    by_channel = patches.reshape(*patches.shape[:-1], -1, len(std))
    mean = by_channel.mean(axis=-2, keepdims=True)
    deviation = by_channel.std(axis=-2, keepdims=True, ddof=1) + 1e-6 / np.asarray(std, np.float32)
    spread = (
        jnp.broadcast_to(x, by_channel.shape).reshape(patches.shape) for x in (mean, deviation)
    )
    mean, deviation = spread
    return mean, deviation


def one_frame(patches: Array, grid: Grid, patch_size: Grid) -> Array:
    """One frame of each patch, `[B, L, P / frames]`: of a clip of 16, number 0, 2, ... 12 and 15.

    That is `linspace(0, T - 1, t)` of the T frames, cut to whole numbers, one in each of the t
    slots of the grid (mae_st).
    """
    slots, frames = grid[0], patch_size[0]
    number = np.arange(slots)
    wanted = number * (slots * frames - 1) // max(slots - 1, 1) - frames * number
    batch, length, values = patches.shape
    split = patches.reshape(batch, slots, length // slots, frames, values // frames)
    picked = [split[:, slot, :, frame] for slot, frame in enumerate(wanted)]
    return jnp.stack(picked, axis=1).reshape(batch, length, values // frames)


pixels = Target()
normalized_pixels = Target(patch_statistics)
channel_normalized_pixels = Target(channel_statistics)
