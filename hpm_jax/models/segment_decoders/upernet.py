"""UPerNet on a plain vision transformer, as in MMSegmentation's recipes of MAE and BEiT.

Xiao et al. 2018 (1807.10221): pyramid pooling on the coarsest of four feature maps, a feature
pyramid that adds each map to the next finer one, and one classifier on all of them together. Maps
are `[B, rows, columns, channels]`.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.models.layers import dropout
from hpm_jax.models.segment_decoders.decoder import Decoded, SegmentDecoder, SegmentSizes
from hpm_jax.plugs import register

POOLS = (1, 2, 3, 6)  # sides of the grids of pyramid pooling
SCALES = (4, 2, 1, 0.5)  # of the four feature maps, relative to the grid of patches
kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # mmcv's ConvModule
# PyTorch's default of a transposed convolution, whose "fan in" counts its outputs
transposed = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) with PyTorch's numbers, in float32.

    A batch is the whole one of a step, over all devices: under `jit` with sharded arrays a mean is
    a global one, so this is "synchronised" normalisation. The running variance is that of the
    batch, without PyTorch's factor n / (n - 1).
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalises each channel by the batch's statistics, or by running averages."""
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, name="norm")
        return norm(x.astype(jnp.float32)).astype(x.dtype)


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation and ReLU."""

    channels: int
    side: int  # of the kernel
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `[B, h, w, _]` to `[B, h, w, channels]`."""
        kernel = (self.side, self.side)
        x = nn.Conv(
            self.channels,
            kernel,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kaiming,
            name="convolution",
        )(x)
        return nn.relu(BatchNorm(name="batch_norm")(x, train))


class Pyramid(nn.Module):
    """Four maps of one resolution to maps of 4, 2, 1 and 1/2 times as many rows and columns."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[Array, ...], train: bool) -> list[Array]:
        """Enlarges by transposed convolutions of stride 2, and halves by the largest of 2 x 2."""
        double = functools.partial(
            nn.ConvTranspose,
            maps[0].shape[-1],
            (2, 2),
            (2, 2),
            dtype=self.dtype,
            kernel_init=transposed,
        )
        first = double(name="first_of_four")(maps[0])
        first = jax.nn.gelu(BatchNorm(name="batch_norm")(first, train), approximate=False)
        return [
            double(name="second_of_four")(first),
            double(name="two")(maps[1]),
            maps[2],
            nn.max_pool(maps[3], (2, 2), (2, 2)),
        ]


class UPerNetHead(nn.Module):
    """The decoder after the pyramid, and the auxiliary head (FCN, Long et al. 2015)."""

    classes: int
    channels: int
    auxiliary_channels: int  # 0 for no auxiliary head
    head_std: float = 0.01
    dtype: Any = jnp.float32

    def setup(self) -> None:
        wide = functools.partial(Convolution, self.channels, 3, self.dtype)
        narrow = functools.partial(Convolution, self.channels, 1, self.dtype)
        classify = functools.partial(
            nn.Conv, self.classes, (1, 1), kernel_init=nn.initializers.normal(self.head_std)
        )
        self.pyramid = Pyramid(self.dtype)
        self.pooled = [narrow() for _ in POOLS]
        self.bottleneck, self.fusion = wide(), wide()
        self.lateral = [narrow() for _ in SCALES[:-1]]
        self.smooth = [wide() for _ in SCALES[:-1]]
        self.classifier = classify()
        if self.auxiliary_channels:
            self.auxiliary = Convolution(self.auxiliary_channels, 3, self.dtype)
            self.auxiliary_classifier = classify()

    def __call__(
        self, maps: tuple[Array, ...], drawn: Any = None, train: bool = False
    ) -> tuple[Array, Array | None]:
        """Returns logits at 4 times the grid, and those of the auxiliary head at the grid itself.

        Args:
            maps: four maps `[B, h, w, D]`.
            drawn: from `UPerNet.draw_for`.
            train: the auxiliary head is computed only then.
        """
        levels = self.pyramid(tuple(x.astype(self.dtype) for x in maps), train)
        logits = self.decode(levels, drawn, train)
        if not self.auxiliary_channels or not (train or self.is_initializing()):
            return logits, None
        return logits, self.decode_auxiliary(levels[2], drawn, train)

    def decode(self, levels: list[Array], drawn: Any = None, train: bool = False) -> Array:
        """Pyramid pooling, the top-down path and fusion, of four levels from fine to coarse."""
        top = levels[-1]
        size = top.shape[1:3]
        pools = [
            resize(convolve(adaptive_pool(top, side), train), size)
            for side, convolve in zip(POOLS, self.pooled, strict=True)
        ]
        tops = self.bottleneck(jnp.concatenate([top, *pools], axis=-1), train)
        paths = [
            *(one(level, train) for one, level in zip(self.lateral, levels[:-1], strict=True)),
            tops,
        ]
        for place in range(len(paths) - 1, 0, -1):
            above = resize(paths[place], paths[place - 1].shape[1:3])
            paths[place - 1] = paths[place - 1] + above
        fine = [one(path, train) for one, path in zip(self.smooth, paths[:-1], strict=True)]
        size = paths[0].shape[1:3]
        fused = jnp.concatenate([resize(one, size) for one in (*fine, paths[-1])], axis=-1)
        x = self.fusion(fused, train)
        return self.classifier(_dropped(x, drawn, "decoder").astype(jnp.float32))

    def decode_auxiliary(self, level: Array, drawn: Any = None, train: bool = False) -> Array:
        """The logits of the auxiliary head, of the level at the grid of patches."""
        x = self.auxiliary(level, train)
        return self.auxiliary_classifier(_dropped(x, drawn, "auxiliary").astype(jnp.float32))


def _dropped(x: Array, drawn: Any, name: str) -> Array:
    """Multiplies the channels `[B, h, w, C]` of each image by their factors `[B, C]`."""
    return x if drawn is None else x * drawn[name][:, None, None].astype(x.dtype)


def resize(x: Array, size: tuple[int, ...]) -> Array:
    """Bilinear between the centres of cells, without antialiasing (PyTorch's `interpolate`)."""
    shape = (len(x), *size, x.shape[-1])
    return x if x.shape == shape else jax.image.resize(x, shape, "bilinear", antialias=False)


def adaptive_pool(x: Array, side: int) -> Array:
    """Averages `[B, h, w, C]` to `[B, side, side, C]`; cells overlap where `side` divides no side.

    Equal to PyTorch's `AdaptiveAvgPool2d`.
    """
    rows, columns = (jnp.asarray(shares(length, side), x.dtype) for length in x.shape[1:3])
    return jnp.einsum("bhwc,rh,sw->brsc", x, rows, columns)


@functools.lru_cache(maxsize=64)
def shares(length: int, parts: int) -> np.ndarray:
    """Returns the share of each of `length` places in each of `parts` means, `[parts, length]`."""
    matrix = np.zeros((parts, length), np.float32)
    for part in range(parts):
        first, end = part * length // parts, -(-(part + 1) * length // parts)
        matrix[part, first:end] = 1 / (end - first)
    return matrix


@register("upernet")
class UPerNet(SegmentDecoder):
    """UPerNet (Xiao et al. 2018) on the outputs of four blocks, with an auxiliary head.

    Batch normalisation is over the whole batch, over all devices; over each part of it with
    `config.optimizer.accumulation`, as in PyTorch.
    """

    blocks: tuple[int, ...] = option(
        (),
        "four blocks whose outputs are read, from 1; () is a third, half, two thirds and the last",
        low=1,
        high=1024,
    )
    channels: int = option(512, "number of channels of the decoder", low=1, high=2**14)
    dropout: float = option(
        0.1, "probability that a channel before a classifier is dropped", low=0, below=1
    )
    auxiliary_weight: float = option(
        0.4, "weight of the loss of the auxiliary head; 0 for no such head", low=0, high=1e3
    )
    auxiliary_channels: int = positive(256, "number of channels of that head", high=2**14)

    levels: ClassVar[int] = len(SCALES)

    def check(self, config: Any) -> None:
        """Checks that the encoder has the blocks, and the grid two patches a side."""
        model, blocks = config.model, self.blocks_of(config.model.depth)
        if model.raw_pixels:
            raise ConfigError(
                "config.decoder = 'upernet' reads four blocks of an encoder, and "
                "config.model.raw_pixels = True has none: --config.decoder=linear_head"
            )
        if len(blocks) != self.levels or max(blocks) > model.depth:
            raise ConfigError(
                f"config.decoder: upernet.blocks = {self.blocks}: expected {self.levels} numbers "
                f"from 1 to the {model.depth} blocks of the encoder, as in (4, 6, 8, 12)"
            )
        if min(config.grid[1:]) < 2:
            raise ConfigError(
                f"config.decoder = 'upernet' halves the grid of patches, which has {config.grid[1]}"
                f" x {config.grid[2]}: expected two patches or more on each side"
            )

    def blocks_of(self, depth: int) -> tuple[int, ...]:
        """Returns the four blocks; by default 4, 6, 8 and 12 of 12, and 8, 12, 16 and 24 of 24."""
        spread = (depth // 3, depth // 2, 2 * depth // 3, depth)
        return self.blocks or tuple(max(1, block) for block in spread)

    def module(self, sizes: SegmentSizes) -> nn.Module:
        """Returns the pyramid and both heads."""
        auxiliary = self.auxiliary_channels if self.auxiliary_weight else 0
        return UPerNetHead(sizes.classes, self.channels, auxiliary, sizes.head_std, sizes.dtype)

    def decode(
        self, module: Any, maps: tuple[Array, ...], drawn: Any = None, train: bool = False
    ) -> Decoded:
        """Returns logits of four times the grid."""
        logits, auxiliary = module(maps, drawn, train)
        further = {} if auxiliary is None else {"auxiliary": (self.auxiliary_weight, auxiliary)}
        return Decoded(logits, further)

    def draw_for(self, key: Array, count: int) -> dict[str, Array] | None:
        """Returns the factors of the channels of both heads."""
        if not self.dropout:
            return None
        keys = jax.random.split(key)
        shapes = {"decoder": self.channels, "auxiliary": self.auxiliary_channels}
        return {
            name: dropout(one, (count, channels), self.dropout)
            for one, (name, channels) in zip(keys, shapes.items(), strict=True)
        }

    def flops(self, sizes: SegmentSizes, train: bool = True) -> float:
        """Returns the operations of all convolutions."""
        cells, width, channels = sizes.grid[0] * sizes.grid[1], sizes.width, self.channels
        fine, double, coarse = 16 * cells, 4 * cells, cells // 4
        pyramid = (4 * cells + 16 * cells + 4 * cells) * width**2
        pooling = sum(side**2 for side in POOLS) * width * channels
        bottleneck = 9 * coarse * (width + len(POOLS) * channels) * channels
        finer = fine + double + cells
        lateral, smooth = finer * width * channels, 9 * finer * channels**2
        fusion = 9 * fine * len(SCALES) * channels**2 + fine * channels * sizes.classes
        further = cells * self.auxiliary_channels * (9 * width + sizes.classes)
        further *= train and self.auxiliary_weight > 0
        return 2 * (pyramid + pooling + bottleneck + lateral + smooth + fusion + further)
