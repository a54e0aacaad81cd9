"""Units of masking: a patch, or a tube (one place in every frame of a clip)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from hpm_jax.masking.selection import hidden_count
from hpm_jax.tokens import AnyArray, Grid, Mask

UNITS = ("patch", "tube")


@dataclasses.dataclass(frozen=True)
class Unit:
    """The patches or tubes of a grid; strategies treat both in the same way."""

    grid: Grid  # of the patches
    tube: bool = False

    @property
    def unit_grid(self) -> Grid:
        """The grid of units: the patch grid, or one frame of it."""
        return (1, *self.grid[1:]) if self.tube else self.grid

    @property
    def count(self) -> int:
        """Number of units of a clip, U."""
        t, h, w = self.unit_grid
        return t * h * w

    @property
    def size(self) -> int:
        """Number of patches of one unit."""
        return self.grid[0] if self.tube else 1

    def hidden(self, ratio: float) -> int:
        """Returns the number of hidden units: patches as in MAE, tubes as in VideoMAE.

        MAE rounds down the number of visible units, VideoMAE the number of hidden units.

        Raises:
            ValueError: if nothing would be hidden, or nothing kept.
        """
        count = hidden_count(self.count, ratio, "tubes" if self.tube else "patches")
        return max(int(self.count * ratio), 1) if self.tube else count

    def merge(self, patches: Float[AnyArray, "B L P"]) -> Float[Array, "B U _"]:
        """Merges patches `[B, L, P]` to units `[B, U, size * P]`."""
        if not self.tube:
            return patches
        batch, _, values = patches.shape
        tubes = patches.reshape(batch, self.size, self.count, values).swapaxes(1, 2)
        return tubes.reshape(batch, self.count, self.size * values)

    def spread(self, mask: Mask) -> Mask:
        """Converts a mask of units to a mask of patches, in raster order."""
        if not self.tube:
            return mask

        def in_every_frame(units):
            starts = self.count * jnp.arange(self.size, dtype=units.dtype)[:, None]
            return (starts + units[:, None]).reshape(len(units), -1)

        marks = (None if x is None else jnp.tile(x, self.size) for x in mask[2:])
        return Mask(in_every_frame(mask.keep), in_every_frame(mask.hide), *marks)

    def pool(self, losses: Shaped[AnyArray, "B L *D"]) -> Shaped[Array, "B U *D"]:
        """Averages losses or vectors of patches `[B, L, ...]` per unit: `[B, U, ...]`.

        The value of a tube is the mean over time.
        """
        if not self.tube:
            return losses
        return losses.reshape(len(losses), self.size, self.count, *losses.shape[2:]).mean(axis=1)


def every_frame_of(grid: Grid, stride: int) -> Mask:
    """Returns a mask that keeps every `stride`-th frame: `[L / stride]`, `[L - L / stride]`."""
    t, h, w = grid
    patches = np.arange(t * h * w, dtype=np.int32).reshape(t, h * w)
    kept = np.arange(t) % stride == 0
    return Mask(patches[kept].reshape(-1), patches[~kept].reshape(-1))
