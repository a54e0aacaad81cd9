"""Boxes (left, top, right, bottom) in pixels: areas, overlaps, and their coding as deltas."""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.tokens import AnyArray

LONGEST = math.log(1000 / 16)  # largest logarithm by which a side is scaled, so that none overflows
SMALLEST = 1e-6  # side of a box in logarithms and quotients, so that an empty box stays finite


def area(boxes: Float[AnyArray, "*batch 4"]) -> Float[Array, "*batch"]:
    """Returns the areas of boxes; 0 where a side is negative."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def intersection(a: Float[AnyArray, "N 4"], b: Float[AnyArray, "M 4"]) -> Float[Array, "N M"]:
    """Returns the areas that each box of `a` shares with each of `b`."""
    first = jnp.maximum(a[:, None, :2], b[None, :, :2])
    last = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = jnp.maximum(last - first, 0.0)
    return shared[..., 0] * shared[..., 1]


def overlap(a: Float[AnyArray, "N 4"], b: Float[AnyArray, "M 4"]) -> Float[Array, "N M"]:
    """Returns intersection over union; 0 for two empty boxes, whose union is empty."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def clip(boxes: Float[AnyArray, "*batch 4"], size: AnyArray) -> Float[Array, "*batch 4"]:
    """Clips boxes to an image of `size` (height, width)."""
    height, width = size[0], size[1]
    return jnp.clip(boxes, 0.0, jnp.stack([width, height, width, height]).astype(boxes.dtype))


def sides(boxes: Float[AnyArray, "*batch 4"]) -> Float[Array, "*batch 2"]:
    """Returns width and height, at least `SMALLEST`."""
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2], SMALLEST)


def encode(
    boxes: Float[AnyArray, "*batch 4"],
    anchors: Float[AnyArray, "*batch 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*batch 4"]:
    """Codes boxes relative to anchors (Girshick et al. 2014, R-CNN, appendix C).

    The shift of the centre is in units of the anchor's sides, and the sides are logarithms of
    their quotients: `(dx, dy, dw, dh)`, multiplied by `weights`. Empty boxes give finite numbers.
    """
    size, target = sides(anchors), sides(boxes)
    shift = (boxes[..., :2] + target / 2 - anchors[..., :2] - size / 2) / size
    return jnp.concatenate([shift, jnp.log(target / size)], axis=-1) * jnp.asarray(weights)


def decode(
    deltas: Float[AnyArray, "*batch 4"],
    anchors: Float[AnyArray, "*batch 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*batch 4"]:
    """Inverts `encode`. A side grows by 1000 / 16 at most, as in Faster R-CNN's codes."""
    size = anchors[..., 2:] - anchors[..., :2]
    scaled = deltas / jnp.asarray(weights)
    center = anchors[..., :2] + size / 2 + scaled[..., :2] * size
    half = size * jnp.exp(jnp.minimum(scaled[..., 2:], LONGEST)) / 2
    return jnp.concatenate([center - half, center + half], axis=-1)
