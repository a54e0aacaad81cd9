"""Means over pairs of patches: all of them, or, where they are millions, what memory allows.

A pair is a patch and the one `d` further round the circle of the M patches, for `d` up to half way:
slices differentiate into slices, where indexing the upper triangle would give a scatter.
Every function here takes `terms`, of the differences of the predicted and of the true losses, to
values and to weights of the same shape, and gives the weighted mean of the values. Where some of
the patches do not count (`counted [B, M]`), no pair with one of them does.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

Terms = Callable[[Array, Array], tuple[Array, Array]]
PAIRS = ("all", "tubes", "sampled")


class Pairs(Protocol):
    """A choice of pairs."""

    def __call__(
        self, terms: Terms, predicted: Array, loss: Array, counted: Array | None = None
    ) -> Array:
        """The mean of the terms over the pairs, a scalar; losses are `[B, M]` float32."""


FEW = 512  # patches: above, all pairs at once take memory, and minutes to compile
BLOCK = 16  # distances at once: 22 thousand pairs a clip with 1,408 hidden patches


def every_pair(terms: Terms, predicted: Array, loss: Array, counted: Array | None = None) -> Array:
    """Over every unordered pair of the M columns of `[B, M]` once."""
    values, weights = terms(_of_pairs(predicted, jnp.subtract), _of_pairs(loss, jnp.subtract))
    return _mean(values, weights, counted)


def all_pairs(count: int) -> Pairs:
    """Over every pair of `count` patches: at once, or in blocks where they are many."""
    return every_pair if count <= FEW else pairs_in_blocks


def some_pairs(distances: int) -> Pairs:
    """Over the pairs of each patch with its next ones on the circle.

    Of patches in random order these are random pairs, in which every patch is as often as any
    other, and their mean is that over all pairs in expectation.

    Args:
        distances: how many next ones; there are `distances * M` pairs.
    """

    def pairs(terms: Terms, predicted: Array, loss: Array, counted: Array | None = None) -> Array:
        far = min(distances, predicted.shape[1] // 2)
        apart = (_of_pairs(x, jnp.subtract, far) for x in (predicted, loss))
        return _mean(*terms(*apart), counted, far)

    return pairs


def pairs_in_blocks(
    terms: Terms, predicted: Array, loss: Array, counted: Array | None = None
) -> Array:
    """Over every pair, a block of distances at a time: the same mean, with no array of all pairs.

    The backward pass computes each block again.
    """
    count = predicted.shape[1]
    half = count // 2
    columns = jnp.arange(count) < half

    @jax.checkpoint
    def block(sums, start):
        def apart(x, of=jnp.subtract):
            around = jnp.pad(x, ((0, 0), (0, half + BLOCK)), mode="wrap")
            window = jax.lax.dynamic_slice_in_dim(around, start, count + BLOCK - 1, axis=1)
            further = [window[:, j : j + count] for j in range(BLOCK)]
            return of(x[:, None], jnp.stack(further, axis=1))

        distance = start + jnp.arange(BLOCK)[:, None]
        # opposite columns meet twice when the count is even: half of the circle is enough
        once = (2 * distance < count) | ((2 * distance == count) & columns)
        values, weights = terms(apart(predicted), apart(loss))
        weights = weights * once.astype(weights.dtype)
        if counted is not None:
            weights = weights * apart(counted.astype(weights.dtype), jnp.multiply)
        # clip by clip, so that devices that share a batch sum up once, after the loop
        of_clips = (jnp.sum(x, axis=(1, 2)) for x in (values * weights, weights))
        return jax.tree.map(jnp.add, sums, tuple(of_clips)), None

    starts = jnp.arange(1, half + 1, BLOCK)
    (total, weight), _ = jax.lax.scan(block, (jnp.zeros_like(predicted[:, 0]),) * 2, starts)
    return total.sum() / jnp.maximum(weight.sum(), 1.0)


def pairs_of_tubes(frames: int) -> Pairs:
    """Over every pair of tubes, whose losses are the means over their `frames` patches each.

    The patches `[B, M]` are in the order (frame, tube), as those of a mask of tubes are.
    """

    def pairs(terms: Terms, predicted: Array, loss: Array, counted: Array | None = None) -> Array:
        def of_tubes(x):
            return x.reshape(len(x), frames, -1).mean(axis=1)

        counts = None if counted is None else of_tubes(counted.astype(jnp.float32))
        return every_pair(terms, of_tubes(predicted), of_tubes(loss), counts)

    return pairs


def _of_pairs(x: Array, of: Callable[[Array, Array], Array], distances: int | None = None) -> Array:
    """`of` each column of `[B, M]` and those up to `distances` further: `[B, pairs]`."""
    count = x.shape[1]
    around = jnp.concatenate([x, x], axis=1)
    found = []
    for distance in range(1, 1 + (count // 2 if distances is None else distances)):
        # opposite columns meet twice when the count is even: half of the circle is enough
        length = count // 2 if 2 * distance == count else count
        found.append(of(x[:, :length], around[:, distance : distance + length]))
    return jnp.concatenate(found, axis=1)


def _mean(
    values: Array, weights: Array, counted: Array | None, distances: int | None = None
) -> Array:
    if counted is not None:
        both = _of_pairs(counted.astype(weights.dtype), jnp.multiply, distances)
        weights = weights * both
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)
