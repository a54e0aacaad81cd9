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
        count = hidden_count(self.count, ratio)
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

        return Mask(in_every_frame(mask.keep), in_every_frame(mask.hide))

    def pool(self, losses: Array, slots: int) -> Array:
        """What a teacher says `[B, slots * h * w]` of some frames, as units `[B, U]`.

        The loss of a tube is the mean over the frames that were looked at; that of a patch whose
        frame was not is the loss at the same place in the frame before.

        Args:
            slots: how many frames of the grid were looked at, evenly spaced from the first.
        """
        batch, (frames, height, width) = len(losses), self.grid
        losses = losses.reshape(batch, slots, height * width)
        if self.tube:
            return losses.mean(axis=1)
        times = frames // slots
        return jnp.repeat(losses, times, axis=1).reshape(batch, -1)


def seen_slots(grid: Grid, stride: int) -> np.ndarray:
    """The patches in every `stride`-th frame of a grid, `[K]` int32, in raster order."""
    t, h, w = grid
    return np.arange(t * h * w, dtype=np.int32).reshape(t, h * w)[::stride].reshape(-1)
