"""What a mask hides as one: a patch, or a tube, the same place in every frame of a clip."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.masking.selection import hidden_count
from hpm_jax.tokens import Grid, Mask

UNITS = ("patch", "tube")


@dataclasses.dataclass(frozen=True)
class Unit:
    """Patches or tubes of a grid; strategies score units and know nothing of the difference."""

    grid: Grid  # of the patches
    tube: bool = False

    @property
    def of_units(self) -> Grid:
        """The grid of units: that of the patches, or one frame of it."""
        return (1, *self.grid[1:]) if self.tube else self.grid

    @property
    def count(self) -> int:
        """Units of a clip, U."""
        t, h, w = self.of_units
        return t * h * w

    @property
    def size(self) -> int:
        """Patches of one unit."""
        return self.grid[0] if self.tube else 1

    def hidden(self, ratio: float) -> int:
        """How many units a mask ratio hides: of patches as MAE counts, of tubes as VideoMAE.

        MAE rounds the number that it keeps down, VideoMAE the number that it hides.

        Raises:
            ValueError: where nothing would be hidden, or nothing kept.
        """
        count = hidden_count(self.count, ratio, "tubes" if self.tube else "patches")
        return max(int(self.count * ratio), 1) if self.tube else count

    def merge(self, patches: Array) -> Array:
        """Patches `[B, L, P]` as units `[B, U, size * P]`."""
        if not self.tube:
            return patches
        batch, _, values = patches.shape
        tubes = patches.reshape(batch, self.size, self.count, values).swapaxes(1, 2)
        return tubes.reshape(batch, self.count, self.size * values)

    def spread(self, mask: Mask) -> Mask:
        """A mask of units as one of patches, in raster order."""
        if not self.tube:
            return mask

        def in_every_frame(units):
            starts = self.count * jnp.arange(self.size, dtype=units.dtype)[:, None]
            return (starts + units[:, None]).reshape(len(units), -1)

        marks = (None if x is None else jnp.tile(x, self.size) for x in mask[2:])
        return Mask(in_every_frame(mask.keep), in_every_frame(mask.hide), *marks)

    def pool(self, losses: Array) -> Array:
        """Losses, or vectors, of patches `[B, L, ...]` as those of units `[B, U, ...]`.

        Those of a tube are the means over time.
        """
        if not self.tube:
            return losses
        return losses.reshape(len(losses), self.size, self.count, *losses.shape[2:]).mean(axis=1)


def every_frame_of(grid: Grid, stride: int) -> Mask:
    """A mask `[L / stride]`, `[L - L / stride]` that keeps every `stride`-th frame of a grid."""
    t, h, w = grid
    patches = np.arange(t * h * w, dtype=np.int32).reshape(t, h * w)
    kept = np.arange(t) % stride == 0
    return Mask(patches[kept].reshape(-1), patches[~kept].reshape(-1))
