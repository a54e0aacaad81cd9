"""Mask R-CNN on a plain vision transformer (ViTDet), for boxes and masks of objects."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.detection.anchors import RATIOS, level_anchors
from hpm_jax.models.encoder import stack_options
from hpm_jax.models.layers import frozen_tokens
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.pyramid import SCALES, ConvNorm, SimplePyramid, enlarging, he_init
from hpm_jax.models.stack import Gather, as_they_are
from hpm_jax.models.windows import WindowedEncoder
from hpm_jax.tokens import Grid

BOX_BINS, MASK_BINS = 7, 14  # sides of what the heads read of a proposal
MASK_SIZE = 2 * MASK_BINS  # side of a predicted mask
BOX_CONVS = {"4conv1fc": 4, "2fc": 0}
BOX_LINEAR = {"4conv1fc": 1, "2fc": 2}


class Regions(NamedTuple):
    """The outputs of the region proposal network for every anchor of a batch, level by level."""

    logits: tuple[Array, ...]  # [B, A_level] float32: whether there is an object
    deltas: tuple[Array, ...]  # [B, A_level, 4] float32


class RegionHead(nn.Module):
    """The region proposal network: two convolutions, shared by all levels."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: tuple[Array, ...]) -> Regions:
        normal = nn.initializers.normal(0.01)
        start = {"kernel_init": normal, "dtype": self.dtype}
        convs = [nn.Conv(self.channels, (3, 3), **start, name=f"conv_{k}") for k in range(2)]
        score = nn.Conv(len(RATIOS), (1, 1), kernel_init=normal, name="objectness")
        move = nn.Conv(4 * len(RATIOS), (1, 1), kernel_init=normal, name="deltas")
        logits, deltas = [], []
        for level in levels:
            for conv in convs:
                level = nn.relu(conv(level))
            level = level.astype(jnp.float32)
            logits.append(score(level).reshape(len(level), -1))
            deltas.append(move(level).reshape(len(level), -1, 4))
        return Regions(tuple(logits), tuple(deltas))


class BoxHead(nn.Module):
    """Classes and boxes of proposals."""

    classes: int
    channels: int
    width: int
    layers: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps `[R, 7, 7, C]` to logits `[R, classes + 1]` and deltas `[R, classes, 4]`, float32.

        The last logit is that of the background.
        """
        for number in range(BOX_CONVS[self.layers]):
            x = nn.relu(ConvNorm(self.channels, 3, self.dtype, name=f"conv_{number}")(x))
        x = x.reshape(len(x), -1)
        for number in range(BOX_LINEAR[self.layers]):
            dense = nn.Dense(
                self.width, dtype=self.dtype, kernel_init=he_init, name=f"linear_{number}"
            )
            x = nn.relu(dense(x))
        x = x.astype(jnp.float32)
        normal = nn.initializers.normal
        logits = nn.Dense(self.classes + 1, kernel_init=normal(0.01), name="classes")(x)
        deltas = nn.Dense(4 * self.classes, kernel_init=normal(0.001), name="deltas")(x)
        return logits, deltas.reshape(len(x), self.classes, 4)


class MaskHead(nn.Module):
    """Masks of proposals, one for each class."""

    classes: int
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[R, 14, 14, C]` to logits `[R, 28, 28, classes]` float32."""
        for number in range(4):
            x = nn.relu(ConvNorm(self.channels, 3, self.dtype, name=f"conv_{number}")(x))
        x = nn.relu(enlarging(self.channels, self.dtype, "enlarge")(x)).astype(jnp.float32)
        normal = nn.initializers.normal(0.001)
        return nn.Conv(self.classes, (1, 1), kernel_init=normal, name="masks")(x)


class Detector(nn.Module):
    """A vision transformer with a simple feature pyramid and the heads of Mask R-CNN.

    Attributes:
        grid, values, width, depth, heads, layout, dtype, remat, unroll, attention, gather: as in
            `Classifier`.
        patch: side of a patch in pixels, a power of two from 4.
        classes: number of classes, without the background.
        window, global_blocks, relative: see `WindowedEncoder`.
        channels: of the pyramid and the heads.
        box_head: a key of `BOX_CONVS`; box_width: width of its linear layers.
        masks: whether there is a head of masks.
        anchor_scale: side of a square anchor, relative to the stride of its level.
        frozen: whether the encoder gets no gradient; see `frozen_tokens`.
    """

    grid: Grid
    values: int
    classes: int
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_blocks: int = 4
    relative: bool = False
    channels: int = 256
    box_head: str = "4conv1fc"
    box_width: int = 1024
    masks: bool = True
    anchor_scale: float = 8.0
    frozen: bool = False
    layout: Layout = LAYOUTS["mae"]
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    gather: Gather = as_they_are

    def setup(self):
        self.encoder = WindowedEncoder(
            self.grid,
            self.width,
            stack_options(self, self.depth, self.heads),
            self.window,
            self.global_blocks,
            self.dtype,
            self.layout,
            self.relative,
        )
        self.pyramid = SimplePyramid(self.channels, self.dtype)
        self.regions = RegionHead(self.channels, self.dtype)
        self.boxes = BoxHead(self.classes, self.channels, self.box_width, self.box_head, self.dtype)
        if self.masks:
            self.mask_head = MaskHead(self.classes, self.channels, self.dtype)

    def __call__(self, patches: Array) -> None:
        """Calls every part once, so that all parameters are made."""
        levels = self.levels(patches)
        self.find_regions(levels)
        empty = jnp.zeros((1, BOX_BINS, BOX_BINS, self.channels), self.dtype)
        self.find_boxes(empty)
        if self.masks:
            self.find_masks(jnp.zeros((1, MASK_BINS, MASK_BINS, self.channels), self.dtype))

    def levels(self, patches: Array, drop: Array | None = None) -> tuple[Array, ...]:
        """Maps patches `[B, L, P]` to the five levels `[B, h, w, channels]`, the finest first."""
        tokens = self.encoder(patches, drop)
        return self.pyramid(frozen_tokens(tokens) if self.frozen else tokens)

    def find_regions(self, levels: tuple[Array, ...]) -> Regions:
        """Scores the anchors of all levels."""
        return self.regions(levels)

    def find_boxes(self, pooled: Array) -> tuple[Array, Array]:
        """See `BoxHead`."""
        return self.boxes(pooled)

    def find_masks(self, pooled: Array) -> Array:
        """See `MaskHead`."""
        return self.mask_head(pooled)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between two places of each level."""
        return tuple(int(self.patch / scale) for scale in SCALES)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each level."""
        height, width = self.grid[1:]
        fine = [(int(height * scale), int(width * scale)) for scale in SCALES[:-1]]
        return (*fine, (-(-fine[-1][0] // 2), -(-fine[-1][1] // 2)))

    @property
    def anchors(self) -> tuple[np.ndarray, ...]:
        """The anchors of each level, float32 `[A_level, 4]`."""
        return tuple(
            level_anchors(shape, stride, self.anchor_scale * stride)
            for shape, stride in zip(self.shapes, self.strides, strict=True)
        )
