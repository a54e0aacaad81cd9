"""An encoder for large images: attention in windows, and over the image in a few blocks.

This is ViTDet's backbone (Li et al. 2022, 2203.16527, section 3). Its parameters have the names and
shapes of `Encoder`'s, of which cls token, registers and last norm are left out, so that it starts
from any pre-trained encoder. Relative positions, an option, are further ones, which start at zero.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.attention import Attention, Rotation
from hpm_jax.models.decomposed import Decomposed
from hpm_jax.models.encoder import PatchEmbedding, patch_positions
from hpm_jax.models.layers import Block, layer_norm
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.positions import sincos_2d
from hpm_jax.models.stack import REMAT_POLICIES, Gather, as_they_are
from hpm_jax.tokens import Grid


def global_indices(depth: int, count: int) -> tuple[int, ...]:
    """Returns the blocks with attention over the image, from 0: 2, 5, 8, 11 for 4 of 12."""
    return tuple(depth * (place + 1) // count - 1 for place in range(min(count, depth)))


def to_windows(x: Array, size: int) -> Array:
    """Cuts maps `[B, h, w, D]` into windows `[B * windows, size * size, D]`, padded with zeros."""
    batch, height, width, channels = x.shape
    down, across = -(-height // size), -(-width // size)
    x = jnp.pad(x, ((0, 0), (0, down * size - height), (0, across * size - width), (0, 0)))
    x = x.reshape(batch, down, size, across, size, channels).swapaxes(2, 3)
    return x.reshape(-1, size * size, channels)


def from_windows(x: Array, size: int, shape: tuple[int, ...]) -> Array:
    """Inverts `to_windows`; `shape` is that of the maps, `(B, h, w, D)`."""
    batch, height, width, channels = shape
    down, across = -(-height // size), -(-width // size)
    x = x.reshape(batch, down, across, size, size, channels).swapaxes(2, 3)
    return x.reshape(batch, down * size, across * size, channels)[:, :height, :width]


class WindowedBlock(Block):
    """A block whose attention sees one window of the grid at a time.

    Padding takes part with tokens of zeros, as in ViTDet's code.

    Attributes:
        shape: height and width of the grid.
        window: side of a window in patches; 0 for the whole grid.
    """

    shape: tuple[int, int] = (1, 1)
    window: int = 0

    def _attended(
        self, attention: Attention, x: Array, read: int, rotation: Rotation | None
    ) -> Array:
        if not self.window:
            return attention(x, read, rotation)
        maps = x.reshape(len(x), *self.shape, -1)
        attended = attention(to_windows(maps, self.window))
        return from_windows(attended, self.window, maps.shape).reshape(x.shape)


class WindowedStack(nn.Module):
    """`Stack` with attention in windows in all but some blocks, and without a norm at the end.

    Attributes:
        depth, heads, dtype, remat, unroll, attention, gather: as in `Stack`.
        options: further options of every block.
        shape, window: as in `WindowedBlock`.
        over_image: indices of the blocks without windows.
        relative: whether blocks learn decomposed relative positions. All have tables of one size;
            windows use the middle of theirs.
    """

    depth: int
    heads: int
    shape: tuple[int, int]
    window: int
    over_image: tuple[int, ...]
    options: Mapping[str, Any]
    relative: bool = False
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    gather: Gather = as_they_are

    @nn.compact
    def __call__(self, x: Array, drop: Array | None = None) -> Array:
        """Maps tokens `[B, h * w, D]` to the same; `drop` `[B, depth, 2]` is from `drop_paths`."""
        start = Block(self.heads, self.dtype, **self.options, relative=self.offsets(0), parent=None)
        init = jax.vmap(lambda key: start.init(key, x[:1])["params"])
        params = self.param("blocks", lambda key: init(jax.random.split(key, self.depth)))
        each = params, None if drop is None else drop.transpose(1, 2, 0)

        def prepared(params: Any) -> Any:
            cast = jax.tree.map(lambda p: p.astype(self.dtype) if p.ndim > 1 else p, params)
            return self.gather(cast)

        attention = "xla" if self.is_initializing() else self.attention
        runs = itertools.groupby(range(self.depth), lambda index: index in self.over_image)
        for over_image, indices in runs:
            window = 0 if over_image else self.window
            block = WindowedBlock(
                self.heads,
                self.dtype,
                **self.options,
                relative=self.offsets(window),
                attention=attention,
                shape=self.shape,
                window=window,
                parent=None,
            )

            def step(x, one, block=block):
                return block.apply({"params": prepared(one[0])}, x, one[1]), None

            step = jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])
            run = list(indices)
            some = jax.tree.map(lambda one, run=run: one[run[0] : run[-1] + 1], each)
            x, _ = jax.lax.scan(step, x, some, unroll=min(self.unroll, len(run)))
        return x

    def offsets(self, window: int) -> Decomposed | None:
        """Returns the map of the tokens of a window, or of the image for 0, with relative ones."""
        if not self.relative:
            return None
        sides = (window, window) if window else self.shape
        return Decomposed(*sides, *(max(side, self.window) for side in self.shape))


class WindowedEncoder(nn.Module):
    """Patches to a feature map of the stride of a patch.

    Attributes:
        grid, width, layout, dtype: as in `Encoder`.
        stack: `depth`, `heads` and how they are computed, as in `Encoder`.
        window: side of a window in patches; 0 for attention over the image everywhere.
        global_blocks: number of blocks with attention over the image.
        relative: see `WindowedStack`.
    """

    grid: Grid
    width: int
    stack: Mapping[str, Any]
    window: int = 14
    global_blocks: int = 4
    dtype: Any = jnp.float32
    layout: Layout = LAYOUTS["mae"]
    relative: bool = False

    @nn.compact
    def __call__(self, patches: Array, drop: Array | None = None) -> Array:
        """Maps patches `[B, L, P]` to `[B, h, w, D]`; `drop` `[B, depth, 2]` or None."""
        layout, shape = self.layout, self.grid[1:]
        embedding = PatchEmbedding(
            self.width, self.dtype, layout.pytorch_init, layout.patch_bias, name="patch_embedding"
        )
        tokens = embedding(patches)
        positions = layout.classifier_positions
        if positions == "learned":
            table = sincos_2d(self.width, self.grid)
            learned = self.param("positions", lambda key: jnp.asarray(table)[None])
            tokens = tokens + learned.astype(self.dtype)
        elif positions != "none":
            tokens = tokens + patch_positions(self, positions, self.width, self.grid).astype(
                self.dtype
            )
        if layout.pre_norm:
            tokens = layer_norm(self.dtype, "pre_norm", layout.norm_eps)(tokens)
        names = ("key_bias", "mlp", "mlp_width", "layer_scale", "norm_eps")
        stack = WindowedStack(
            **self.stack,
            shape=shape,
            window=self.window,
            over_image=global_indices(self.stack["depth"], self.global_blocks),
            options={name: getattr(layout, name) for name in names},
            relative=self.relative,
            dtype=self.dtype,
            name="transformer",
        )
        return stack(tokens, drop).reshape(len(patches), *shape, self.width)
