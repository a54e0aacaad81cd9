"""RoIAlign over all levels of a pyramid at once (He et al. 2017, Mask R-CNN, section 3)."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.detection.boxes import area
from hpm_jax.tokens import AnyArray

CANONICAL, CANONICAL_LEVEL = 224, 4  # a box of that side belongs to the level of stride 2 ** 4


def levels_of(boxes: Float[AnyArray, "R 4"], strides: Sequence[int]) -> Int[Array, " R"]:
    """Returns the index of each box's level (Lin et al. 2017, FPN, equation 1).

    Args:
        strides: of the levels, consecutive powers of two.
    """
    level = jnp.floor(CANONICAL_LEVEL + jnp.log2(jnp.sqrt(area(boxes)) / CANONICAL + 1e-8))
    first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    return (jnp.clip(level, first, last) - first).astype(jnp.int32)


def roi_align(
    levels: Sequence[Float[AnyArray, "_ _ C"]],
    boxes: Float[AnyArray, "R 4"],
    places: Int[AnyArray, " R"],
    scales: Sequence[float],
    size: int,
    samples: int = 2,
) -> Float[Array, "R size size C"]:
    """Averages `samples` x `samples` bilinear samples in each of `size` x `size` bins of a box.

    Equal to torchvision's `roi_align(..., aligned=True)`: pixels are centred at halves, samples
    more than one pixel outside the map are 0, and those nearer take the value of its edge.

    Args:
        levels: feature maps of one image.
        boxes: in pixels of the image.
        places: index of the level that each box is read from; see `levels_of`.
        scales: length of a pixel of the image in pixels of each level.
        samples: number of samples along a side of a bin.
    """
    heights = jnp.asarray([level.shape[0] for level in levels])[places]
    widths = jnp.asarray([level.shape[1] for level in levels])[places]
    starts = np.cumsum([0, *(level.shape[0] * level.shape[1] for level in levels[:-1])])
    start = jnp.asarray(starts)[places][:, None, None]
    flat = jnp.concatenate([level.reshape(-1, level.shape[-1]) for level in levels])

    scaled = boxes * jnp.asarray(scales, jnp.float32)[places][:, None] - 0.5
    steps = (jnp.arange(size * samples, dtype=jnp.float32) + 0.5) / (size * samples)
    columns = _corners(scaled[:, 0], scaled[:, 2], steps, widths)
    rows = _corners(scaled[:, 1], scaled[:, 3], steps, heights)
    total = jnp.zeros((), flat.dtype)
    for row, row_weight in rows:
        for column, column_weight in columns:
            index = start + row[:, :, None] * widths[:, None, None] + column[:, None, :]
            weight = row_weight[:, :, None] * column_weight[:, None, :]
            total = total + flat[index] * weight[..., None].astype(flat.dtype)
    bins = total.reshape(len(boxes), size, samples, size, samples, -1)
    return bins.mean(axis=(2, 4))


def _corners(first: Array, last: Array, steps: Array, length: Array) -> list[tuple[Array, Array]]:
    """The two pixels next to each sample along one axis, with their weights: `[R, samples]` each.

    Args:
        first, last: edges of the boxes `[R]`, in pixels whose centres are whole numbers.
        steps: places of the samples, as shares of a box.
        length: pixels of the map along the axis, `[R]`.
    """
    place = first[:, None] + steps * (last - first)[:, None]
    end = length[:, None] - 1
    inside = (place >= -1) & (place <= (end + 1).astype(place.dtype))
    place = jnp.clip(place, 0.0, end.astype(place.dtype))
    below = jnp.floor(place).astype(jnp.int32)
    share = place - below.astype(place.dtype)
    above = jnp.minimum(below + 1, end)
    return [(below, jnp.where(inside, 1 - share, 0.0)), (above, jnp.where(inside, share, 0.0))]
