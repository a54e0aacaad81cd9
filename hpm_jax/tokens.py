"""Images and videos as patches on a `(t, h, w)` grid; an image is a video of one frame."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

Grid = tuple[int, int, int]

# Arrays of JAX; with type checks at run time also arrays of NumPy.
if TYPE_CHECKING:
    AnyArray = Array
else:
    AnyArray = Array | np.ndarray


class Mask(NamedTuple):
    """Indices of visible and hidden patches of each image, in raster order.

    `hide` has those hidden patches that are predicted: all, unless `config.decoder` has a `share`.
    """

    keep: Int[AnyArray, "B K"]
    hide: Int[AnyArray, "B M"]
    replaced: Bool[AnyArray, "B K"] | None = None  # which kept patches a learned token replaces
    counted: Bool[AnyArray, "B M"] | None = (
        None  # which hidden patches enter the loss; None for all
    )


def grid_of(size: Grid, patch_size: Grid) -> Grid:
    """Returns the grid of patches of a video of `size` (frames, height, width).

    Raises:
        ValueError: if a side is not a multiple of the patch.
    """
    for side, length, patch in zip(("frames", "height", "width"), size, patch_size, strict=True):
        if length % patch:
            below, above = length // patch * patch, (length // patch + 1) * patch
            raise ValueError(
                f"{side} {length} is not a multiple of the patch size {patch}: "
                f"use {f'{below} or ' if below else ''}{above}, or another patch size."
            )
    return size[0] // patch_size[0], size[1] // patch_size[1], size[2] // patch_size[2]


def unit_pixels(images: AnyArray) -> Array:
    """Returns images of any shape as float32 with black 0 and white 1.

    uint8 is divided by 255; float32 is in that range already (`config.data.value_range`).
    """
    pixels = jnp.asarray(images).astype(jnp.float32)
    return pixels / 255.0 if images.dtype == np.uint8 else pixels


def normalize(
    images: UInt8[AnyArray, "*batch C"] | Float32[AnyArray, "*batch C"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float32[Array, "*batch C"]:
    """Returns `(x - mean) / std` by channel, for images `[..., C]` as in `unit_pixels`."""
    pixels = unit_pixels(images)
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def patchify(pixels: Float[AnyArray, "B *size C"], patch_size: Grid) -> Float[AnyArray, "B L P"]:
    """Cuts `[B, H, W, C]` images or `[B, T, H, W, C]` videos into patches `[B, L, P]`.

    Patches are in raster order (t, h, w); inside a patch the order is (t, row, column, channel),
    channel fastest, as in MAE (`P = t * h * w * C`).
    """
    if pixels.ndim == 4:
        pixels = pixels[:, None]
    batch, frames, height, width, channels = pixels.shape
    t, h, w = grid_of((frames, height, width), patch_size)
    pt, ph, pw = patch_size
    pixels = pixels.reshape(batch, t, pt, h, ph, w, pw, channels)
    pixels = pixels.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return pixels.reshape(batch, t * h * w, pt * ph * pw * channels)


def unpatchify(
    patches: Float[AnyArray, "B L P"], grid: Grid, patch_size: Grid
) -> Float[AnyArray, "B T H W C"]:
    """Inverts `patchify`: `[B, L, P]` to a video `[B, T, H, W, C]`."""
    (t, h, w), (pt, ph, pw) = grid, patch_size
    patches = patches.reshape(patches.shape[0], t, h, w, pt, ph, pw, -1)
    patches = patches.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return patches.reshape(patches.shape[0], t * pt, h * ph, w * pw, -1)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Converts images, videos or several clips of each to normalised patches, and back."""

    patch_size: Grid
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return len(self.mean)

    @property
    def values(self) -> int:
        """Number of values of one patch, P."""
        return math.prod(self.patch_size) * self.channels

    def __call__(
        self, images: UInt8[AnyArray, "B *size C"] | Float32[AnyArray, "B *size C"]
    ) -> Float32[Array, "R L P"]:
        """Converts images, as in `normalize`, to normalised patches `[B, L, P]` float32."""
        return self.patchify(self.normalize(images))

    def normalize(
        self, images: UInt8[AnyArray, "B *size C"] | Float32[AnyArray, "B *size C"]
    ) -> Float32[Array, "R *view C"]:
        """Normalises images `[B, H, W, C]` or clips `[B, T, H, W, C]`: float32, same shape.

        Several clips of each video, `[B, R, T, H, W, C]`, give B R rows.
        """
        if images.ndim == 6:
            images = images.reshape(-1, *images.shape[2:])
        return normalize(images, self.mean, self.std)

    def patchify(self, pixels: Float[Array, "B *size C"]) -> Float[Array, "B L P"]:
        """Cuts normalised pixels into patches `[B, L, P]`."""
        return patchify(pixels, self.patch_size)

    def pixels(self, patches: Float[AnyArray, "B L P"], grid: Grid) -> Float[AnyArray, "B T H W C"]:
        """Converts normalised patches `[B, L, P]` to pixels in [0, 1], `[B, T, H, W, C]`."""
        video = unpatchify(patches, grid, self.patch_size)
        return video * jnp.asarray(self.std) + jnp.asarray(self.mean)


def gather(
    tokens: Shaped[AnyArray, "B L D"], indices: Int[AnyArray, "B N"]
) -> Shaped[Array, "B N D"]:
    """Gathers tokens of each image by index: `[B, L, D]` at `[B, N]` gives `[B, N, D]`."""
    return jnp.take_along_axis(tokens, indices[..., None], axis=1)


def unit_length(vectors: Float[AnyArray, "*batch D"]) -> Float[Array, "*batch D"]:
    """`v / max(|v|, 1e-12)` over the last axis, with a gradient of 0 in the length at v = 0."""
    square = jnp.square(vectors).sum(axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(square, 1e-24))
