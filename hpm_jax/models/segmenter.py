"""The vision transformer with a decoder of classes, for semantic segmentation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.encoder import Encoder, stack_options
from hpm_jax.models.layers import frozen_tokens
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.segment_decoders import Decoded, LinearHead, SegmentDecoder, SegmentSizes
from hpm_jax.models.stack import Gather, as_they_are
from hpm_jax.tokens import Grid


class Segmenter(nn.Module):
    """A vision transformer and a decoder, which maps features of patches to logits of classes.

    The logits are then enlarged to pixels; see `enlarge_logits`. Without the encoder (`raw_pixels`)
    the decoder reads the normalised pixels of each patch, a baseline.

    Attributes:
        grid, values, width, depth, heads, layout, dtype, remat, unroll, attention, gather: as in
            `Classifier`.
        classes: number of classes.
        decoder: the default is the end-to-end protocol of Kerssies et al. 2024 (2404.12172).
        relative: whether blocks learn relative positions; see `Encoder`.
        frozen: whether the encoder gets no gradient; see `frozen_tokens`.
        raw_pixels: whether there is no encoder.
        head_std: standard deviation of the initial weights of the decoder's classifiers.
    """

    grid: Grid
    values: int
    classes: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder: SegmentDecoder = LinearHead()
    relative: bool = False
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
                self.relative,
            )
        self.head = self.decoder.module(self.sizes)

    @property
    def sizes(self) -> SegmentSizes:
        """The sizes on which the decoder depends."""
        width = self.values if self.raw_pixels else self.width
        return SegmentSizes(self.grid[1:], width, self.classes, self.head_std, self.dtype)

    def __call__(self, patches: Array, drop: Array | None = None) -> Array:
        """Returns logits `[B, rows, columns, classes]` float32 of patches `[B, L, P]`.

        Rows and columns are those of the grid, or of the decoder's finest map. Norms use their
        running averages. `drop` `[B, depth, 2]` is from `drop_paths`; None drops nothing.
        """
        return self.decoder.decode(self.head, self.maps(patches, drop)).logits

    def decoded(self, patches: Array, drop: Array | None = None, drawn: Any = None) -> Decoded:
        """Returns the logits of a training step, with those of auxiliary losses.

        Args:
            drawn: from `SegmentDecoder.draw_for`.
        """
        return self.decoder.decode(self.head, self.maps(patches, drop), drawn, train=True)

    def maps(self, patches: Array, drop: Array | None = None) -> tuple[Array, ...]:
        """Returns the input of the decoder: feature maps `[B, h, w, D]`, without cls."""

        def as_map(tokens):
            return tokens.reshape(len(patches), *self.grid[1:], tokens.shape[-1])

        return tuple(map(as_map, self.features(patches, drop)))

    def tokens(self, patches: Array) -> Array:
        """Returns the tokens of the decoder's last block, `[B, L, D]` float32, without cls."""
        return self.features(patches)[-1].astype(jnp.float32)

    def features(self, patches: Array, drop: Array | None = None) -> tuple[Array, ...]:
        """Returns the tokens of each of the decoder's blocks, `[B, L, D]`, without cls.

        The output of the encoder has passed the last norm, those of blocks none; a frozen encoder's
        are float32.
        """
        if self.raw_pixels:
            return (patches,)
        blocks = tuple(number - 1 for number in self.decoder.blocks_of(self.depth))
        collect = tuple(sorted(set(blocks)))
        outputs = self.encoder.outputs(patches, drop=drop, collect=collect)
        by_block = dict(zip(collect, outputs.blocks, strict=True))
        found = [by_block[block] for block in blocks] if blocks else [outputs.tokens]
        found = [tokens[:, self.layout.extra_tokens :] for tokens in found]
        return tuple(map(frozen_tokens, found) if self.frozen else found)


def enlarge_logits(logits: Array, size: tuple[int, int]) -> Array:
    """Enlarges `[B, h, w, classes]` to `[B, *size, classes]`, bilinear between patch centres.

    Equal to PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return jax.image.resize(logits, (len(logits), *size, logits.shape[-1]), "bilinear")
