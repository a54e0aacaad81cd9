"""The vision transformer with a linear decoder, for semantic segmentation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.encoder import Encoder, stack_options
from hpm_jax.models.layers import Gather, as_they_are
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.tokens import Grid


class Segmenter(nn.Module):
    """A vision transformer with a linear layer on the patch tokens of its last block.

    This is the end-to-end protocol of Kerssies et al. 2024 (2404.12172): one linear map from each
    patch token to class logits, which are then enlarged to pixels; see `enlarge_logits`. Tokens are
    those after the encoder's last norm. Without the encoder (`raw_pixels`) the linear layer reads
    the normalised pixels of each patch, a baseline.

    Attributes:
        grid, values, width, depth, heads, layout, dtype, remat, unroll, attention, gather: as in
            `Classifier`.
        classes: number of classes.
        frozen: whether the encoder gets no gradient. Tokens then pass a layer norm without scale
            and offset, whose statistics are those of one token: the linear probe is independent
            of the scale of the features, and of the other images of a batch.
        raw_pixels: whether there is no encoder.
        head_std: standard deviation of the decoder's initial weights.
    """

    grid: Grid
    values: int
    classes: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    frozen: bool = False
    raw_pixels: bool = False
    head_std: float = 0.01
    layout: Layout = LAYOUTS["mae"]
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    gather: Gather = as_they_are

    def setup(self):
        stack = stack_options(self, self.depth, self.heads)
        if not self.raw_pixels:
            self.encoder = Encoder(
                self.grid,
                self.width,
                stack,
                self.dtype,
                self.layout,
                self.layout.classifier_positions,
            )
        if self.frozen:
            self.norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.head_std))

    def __call__(self, patches: Array, drop: Array | None = None) -> Array:
        """Returns logits of each patch, `[B, h, w, classes]` float32, of patches `[B, L, P]`.

        `drop` `[B, depth, 2]` is from `drop_paths`; None drops nothing.
        """
        tokens = self.tokens(patches, drop)
        return self.head(tokens).reshape(len(patches), *self.grid[1:], self.classes)

    def tokens(self, patches: Array, drop: Array | None = None) -> Array:
        """Returns the input of the decoder: patch tokens `[B, L, D]` float32, without cls."""
        if self.raw_pixels:
            return patches
        tokens = self.encoder(patches, drop=drop)[:, self.layout.extra_tokens :]
        tokens = tokens.astype(jnp.float32)
        return self.norm(jax.lax.stop_gradient(tokens)) if self.frozen else tokens


def enlarge_logits(logits: Array, size: tuple[int, int]) -> Array:
    """Enlarges `[B, h, w, classes]` to `[B, *size, classes]`, bilinear between patch centres.

    Equal to PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return jax.image.resize(logits, (len(logits), *size, logits.shape[-1]), "bilinear")
