"""Which object each anchor or proposal learns, and which of them are sampled for the loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from hpm_jax.tokens import AnyArray

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class Matches(NamedTuple):
    """The match of each of N boxes."""

    objects: Int[Array, " N"]  # index of the object of highest overlap; 0 if there is no object
    labels: Int[Array, " N"]  # POSITIVE, NEGATIVE or IGNORED


def match(
    overlaps: Float[AnyArray, "G N"],
    valid: Bool[AnyArray, " G"],
    low: float,
    high: float,
    low_quality: bool = False,
) -> Matches:
    """Matches each box with the object of highest overlap (Ren et al. 2015, section 3.1.2).

    It is positive from an overlap of `high`, negative below `low`, and ignored between them.

    Args:
        overlaps: intersection over union of objects and boxes.
        valid: which rows are objects; the others are padding.
        low_quality: whether every object also gets the boxes of its own highest overlap, however
            low, unless that is 0. Each of them keeps the object of the box's highest overlap.
    """
    overlaps = jnp.where(valid[:, None], overlaps, -1.0)
    objects, best = jnp.argmax(overlaps, axis=0), jnp.max(overlaps, axis=0)
    labels = jnp.where(best >= high, POSITIVE, jnp.where(best < low, NEGATIVE, IGNORED))
    if low_quality:
        highest = jnp.max(overlaps, axis=1, keepdims=True)
        is_highest = jnp.any((overlaps == highest) & (highest > 0), axis=0)
        labels = jnp.where(is_highest, POSITIVE, labels)
    return Matches(objects.astype(jnp.int32), labels.astype(jnp.int32))


def most_positive(count: int, positive_share: float) -> int:
    """Returns how many of `count` samples are positive at most, one at least."""
    return max(1, int(count * positive_share))


class Sample(NamedTuple):
    """A sample of a fixed number K of boxes: positive ones first."""

    indices: Int[Array, " K"]
    labels: Int[Array, " K"]  # POSITIVE or NEGATIVE; IGNORED for places that no box fills


def sample(key: Array, labels: Int[AnyArray, " N"], count: int, positive_share: float) -> Sample:
    """Draws `count` boxes at random, of which at most `positive_share` are positive.

    Negative boxes fill the other places. With too few of them, places remain empty.
    """
    count = min(count, labels.shape[0])
    most = most_positive(count, positive_share)
    drawn = jax.random.uniform(key, labels.shape)
    of_positive = jnp.where(labels == POSITIVE, drawn, -1.0)
    last = jax.lax.top_k(of_positive, most)[0][-1]
    priority = jnp.where(labels == NEGATIVE, drawn, -1.0)
    # every number is below 1, so that the chosen positive ones precede all negative ones
    priority = jnp.where((labels == POSITIVE) & (of_positive >= last), drawn + 1.0, priority)
    highest, indices = jax.lax.top_k(priority, count)
    found = jnp.where(highest >= 1, POSITIVE, jnp.where(highest >= 0, NEGATIVE, IGNORED))
    return Sample(indices.astype(jnp.int32), found.astype(jnp.int32))
