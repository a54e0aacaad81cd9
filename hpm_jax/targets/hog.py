"""Histograms of oriented gradients as a target (MaskFeat)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray, patchify, unit_length, unpatchify


@register("hog")
class HOG(Target):
    """Histograms of oriented gradients, of each channel and cell (MaskFeat, Wei et al. 2022).

    Sobel gradients; their magnitude, weighted by a Gaussian window, goes into the bin of their
    direction, which is unsigned; each histogram is divided by its length. Of a clip it is the
    middle frame of each patch.
    """

    bins: int = positive(9, "number of orientation bins from 0 to 180 degrees", high=360)
    cell: int = positive(
        8, "rows and columns of pixels in a cell; must divide the patch size", high=1024
    )
    window: int = option(
        16, "rows and columns of the Gaussian window; 0 for none", low=0, high=1024
    )

    def check(self, config: Any) -> None:
        """Cells have to divide the patch."""
        if config.model.patch_size % self.cell:
            raise ConfigError(
                f"config.target = {str(self)!r}: cell = {self.cell} does not divide "
                f"config.model.patch_size = {config.model.patch_size}"
            )

    def width(self, setting: Setting) -> int:
        """`bins` for each cell of a patch and each channel: 108 of 16 x 16 pixels in colour."""
        _, rows, columns = setting.tokenizer.patch_size
        cells = (rows // self.cell) * (columns // self.cell)
        return cells * setting.tokenizer.channels * self.bins

    def __call__(self, context: TargetContext) -> Float[Array, "B L D"]:
        """`[B, L, cells * channels * bins]`."""
        frames, rows, columns = context.tokenizer.patch_size
        pixels = unpatchify(context.patches, context.grid, context.tokenizer.patch_size)
        pixels = pixels[:, frames // 2 :: frames]
        batch, slots = pixels.shape[:2]
        found = histograms(pixels.reshape(-1, *pixels.shape[2:]), self.bins, self.cell, self.window)
        found = found.reshape(batch, slots, *found.shape[1:3], -1)
        return patchify(found, (1, rows // self.cell, columns // self.cell))


def histograms(
    pixels: Float[AnyArray, "N H W C"], bins: int, cell: int, window: int
) -> Float[Array, "N h w C bins"]:
    """Histograms `[N, H / cell, W / cell, C, bins]` of length 1, or 0 where nothing changes.

    The direction is `atan2(gx, gy)`, as in the official code, so that bin 0 has edges whose
    brightness changes from row to row.
    """
    count, height, width, channels = pixels.shape
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    right = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    gx, gy = down[:, :, 2:] - down[:, :, :-2], right[:, 2:] - right[:, :-2]
    magnitude = jnp.sqrt(gx**2 + gy**2)
    if window:
        line = np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / (window / 2)) ** 2)
        weights = [line[np.arange(side) % window].astype(np.float32) for side in (height, width)]
        magnitude = magnitude * np.outer(*weights)[None, :, :, None]
    number = jnp.floor(jnp.arctan2(gx, gy) / np.pi * bins).astype(jnp.int32) % bins
    spread = magnitude[..., None] * jax.nn.one_hot(number, bins, dtype=magnitude.dtype)
    cells = (count, height // cell, cell, width // cell, cell, channels, bins)
    return unit_length(spread.reshape(cells).sum(axis=(2, 4)))
