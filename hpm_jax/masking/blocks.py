"""Masks of squares, rectangles and cells, drawn independently for each frame of a clip."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.fields import option, share
from hpm_jax.masking.frames import Frames, Spatial, in_order, ranks
from hpm_jax.masking.strategy import chosen_first
from hpm_jax.plugs import register


@register("grid")
class Grid(Spatial):
    """One random unit of each 2 x 2 cell is visible at ratio 0.75 (UM-MAE, Li et al. 2022).

    At other ratios the units of a cell are hidden in turn: no cell hides two units while another
    hides none. The cells of the last row and column of an odd grid reach beyond it. Each unit has
    the same rank distribution there as everywhere, so the counts of whole cells may differ by one.
    """

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns the random rank in the cell, from 0 to 3, plus noise below 1."""
        rank_key, noise_key = jax.random.split(key)
        batch, height, width = frames[:3]
        rows, columns = -(-height // 2), -(-width // 2)
        rank = ranks(jax.random.uniform(rank_key, (batch, rows, columns, 4)))
        rank = rank.reshape(batch, rows, columns, 2, 2).swapaxes(2, 3)
        rank = rank.reshape(batch, 2 * rows, 2 * columns)[:, :height, :width]
        return rank + jax.random.uniform(noise_key, rank.shape)


@register("block")
class Block(Spatial):
    """Everything except one square is hidden (the block mask of the official HPM code).

    Its side is `int(sqrt(kept))`, at most that of the grid. If the number of kept units is not a
    square, the remainder is visible around it, nearest rings first. Every offset is equally
    likely. The official code draws offsets from 0 to 6 on a grid of 14 x 14 with a square of 7 x 7,
    so it never shows the last row and column; this one draws offsets from 0 to 7.
    """

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns the distance to the square (Chebyshev, 0 inside), plus noise below 1."""
        offset_key, noise_key = jax.random.split(key)
        batch, height, width = frames[:3]
        side = min(math.isqrt(frames.kept), height, width)
        top, left = _offsets(offset_key, batch, height - side + 1, width - side + 1)
        rows = _distance(jnp.arange(height, dtype=jnp.int32), top, side)
        columns = _distance(jnp.arange(width, dtype=jnp.int32), left, side)
        distance = jnp.maximum(rows[:, :, None], columns[:, None]).astype(jnp.float32)
        return distance + jax.random.uniform(noise_key, distance.shape)


@register("beit_block")
class BeitBlock(Spatial):
    """Rectangles of random place, area and aspect are hidden (BEiT, Bao et al. 2021, algorithm 1).

    The area is uniform from `smallest` to the number of units that remain to be hidden; the aspect
    is log-uniform. A rectangle is accepted if it is smaller than the grid in both sides and adds at
    least one unit and at most those that remain. Ten consecutive rejections end the algorithm, as
    in the official code. Here the number of attempts is fixed, and the units still missing are
    hidden at random, so that the count is exact; BEiT's own masks may hide less.
    """

    smallest: float = share(16 / 196, "smallest area, as a fraction of the grid (BEiT: 16 of 196)")
    aspect: tuple[float, float] = option(
        (0.3, 1 / 0.3), "smallest and largest aspect ratio, height over width", low=0.01, high=100
    )
    attempts: int = option(64, "number of candidate rectangles per frame", low=1, high=1000)

    def check(self, config: Any) -> None:
        """Checks that the aspects are in order."""
        in_order(config, "aspect", *self.aspect)

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns scores above 1 inside the rectangles, uniform scores below 1 elsewhere."""
        cover_key, noise_key = jax.random.split(key)
        covered = self.cover(cover_key, frames)
        noise = jax.random.uniform(noise_key, covered.shape)
        return chosen_first(covered, noise)

    def cover(self, key: Array, frames: Frames) -> Array:
        """Returns the covered units, `[N, h, w]` bool: at most `frames.hidden` per frame."""
        batch, height, width, _, hidden = frames
        draws = jax.random.uniform(key, (batch, self.attempts, 4)).transpose(1, 2, 0)
        least = self.smallest * height * width
        low, high = (math.log(bound) for bound in self.aspect)

        def attempt(state, draw):
            covered, rejected = state  # [N, h, w] bool; [N] int32, consecutive
            area, aspect, top, left = draw  # [N] each, uniform
            remaining = hidden - jnp.sum(covered, axis=(1, 2), dtype=jnp.int32)
            area = least + area * (remaining.astype(jnp.float32) - least)
            root, area = jnp.exp((low + aspect * (high - low)) / 2), jnp.sqrt(area)
            h, w = (jnp.round(side).astype(jnp.int32) for side in (area * root, area / root))
            rows, columns = _span(top, h, height), _span(left, w, width)
            block = rows[:, :, None] & columns[:, None]
            added = jnp.sum(block & ~covered, axis=(1, 2), dtype=jnp.int32)
            accepted = (h < height) & (w < width) & (added >= 1) & (added <= remaining)
            accepted &= rejected < 10
            covered |= block & accepted[:, None, None]
            return (covered, jnp.where(accepted, 0, rejected + 1)), None

        nothing = jnp.zeros((batch, height, width), bool), jnp.zeros((batch,), jnp.int32)
        return jax.lax.scan(attempt, nothing, draws)[0][0]


@register("simmim")
class Simmim(Spatial):
    """Random cells of `cell` x `cell` units are hidden (SimMIM, Xie et al. 2022).

    SimMIM's cells have 32 pixels, 2 patches of 16, and it rounds the number of hidden cells up.
    Here the count of units is exact, so that one cell may be hidden in part.
    """

    cell: int = option(2, "side of a cell, in units", low=1, high=64)

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns the random rank of the cell, plus noise below 1."""
        cells_key, noise_key = jax.random.split(key)
        cells = _cells(cells_key, frames.batch, frames.height, frames.width, self.cell)
        cells = cells[:, : frames.height, : frames.width]
        return cells + jax.random.uniform(noise_key, cells.shape)


@register("large_block")
class LargeBlock(Spatial):
    """Random blocks of `size` x `size` units are hidden (Pixio), on a grid of random offset.

    As `simmim`, but the borders of the blocks differ from frame to frame. Blocks at the border of
    the grid are cut off.
    """

    size: int = option(2, "side of a block, in units", low=1, high=64)

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns the random rank of the block, plus noise below 1."""
        cells_key, offset_key, noise_key = jax.random.split(key, 3)
        batch, height, width = frames[:3]
        more = self.size - 1  # the largest offset
        cells = _cells(cells_key, batch, height + more, width + more, self.size)
        offsets = _offsets(offset_key, batch, self.size, self.size)
        cut = jax.vmap(lambda frame, *offset: jax.lax.dynamic_slice(frame, offset, (height, width)))
        return cut(cells, *offsets) + jax.random.uniform(noise_key, (batch, height, width))


@register("inverse_block")
class InverseBlock(Spatial):
    """Everything except one circularly rolled rectangle is hidden (CAPI, Darcet et al. 2025).

    The aspect is log-uniform among those that fit in the grid. The sides are rounded up, and the
    last units in raster order are hidden until the count is exact. The roll is uniform, so every
    unit is equally likely to be visible.
    """

    aspect: tuple[float, float] = option(
        (0.5, 2.0), "smallest and largest aspect ratio, height over width", low=0.01, high=100
    )

    def check(self, config: Any) -> None:
        """Checks that the aspects are in order."""
        in_order(config, "aspect", *self.aspect)

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns the raster index inside the rectangle; outside, h * w plus noise below 1."""
        aspect_key, roll_key, noise_key = jax.random.split(key, 3)
        batch, height, width, kept, _ = frames
        fits = math.log(kept / width**2), math.log(height**2 / kept)
        low, high = (min(max(math.log(bound), fits[0]), fits[1]) for bound in self.aspect)
        root = jnp.exp(jax.random.uniform(aspect_key, (batch, 1, 1), minval=low, maxval=high) / 2)
        h, w = (jnp.ceil(math.sqrt(kept) * side) for side in (root, 1 / root))
        top, left = _offsets(roll_key, batch, height, width)
        row = (jnp.arange(height, dtype=jnp.int32) - top[:, None]) % height
        column = (jnp.arange(width, dtype=jnp.int32) - left[:, None]) % width
        row, column = (x.astype(jnp.float32) for x in (row[:, :, None], column[:, None]))
        noise = height * width + jax.random.uniform(noise_key, (batch, height, width))
        return jnp.where((row < h) & (column < w), row * width + column, noise)


def _offsets(key: Array, batch: int, rows: int, columns: int) -> tuple[Array, Array]:
    """Returns uniform integers below `rows` and below `columns`, int32 `[batch]` each."""
    offsets = jax.random.uniform(key, (batch, 2)) * jnp.asarray([rows, columns], jnp.float32)
    offsets = offsets.astype(jnp.int32)
    return offsets[:, 0], offsets[:, 1]


def _distance(index: Array, start: Array, side: int) -> Array:
    """Returns distances of indices `[n]` to the intervals of length `side` at `start`: `[N, n]`."""
    before = start[:, None] - index
    return jnp.maximum(jnp.maximum(before, 1 - side - before), 0)


def _span(place: Array, length: Array, total: int) -> Array:
    """Returns `[N, n]` bool: an interval of `length` in `total`, at a `place` in [0, 1)."""
    start = jnp.floor(place * (total - length + 1).astype(jnp.float32)).astype(jnp.int32)
    index = jnp.arange(total, dtype=jnp.int32) - start[:, None]
    return (index >= 0) & (index < length[:, None])


def _cells(key: Array, batch: int, height: int, width: int, size: int) -> Array:
    """Returns random ranks of cells, repeated per unit: `[N, h, w]`, rounded up to whole cells."""
    rows, columns = -(-height // size), -(-width // size)
    rank = ranks(jax.random.uniform(key, (batch, rows * columns)))
    rank = rank.reshape(batch, rows, columns)
    return jnp.repeat(jnp.repeat(rank, size, axis=1), size, axis=2)
