"""Means over pairs of patches: over all pairs, in blocks if there are millions, or over some.

The M patches form a circle. A pair is x[i] and x[i+d], for `d` up to M/2. The gradient of a slice
is a slice, whereas indexing the upper triangle would give a scatter.
Every function here takes `terms`, which maps the differences of the predicted and of the true
losses to values and to weights of the same shape, and returns the weighted mean of the values.
`counted [B, M]` excludes patches, and with them all their pairs.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

Terms = Callable[[Array, Array], tuple[Array, Array]]
PAIRS = ("all", "tubes", "sampled")


@runtime_checkable
class Pairs(Protocol):
    """A function that averages over a choice of pairs."""

    def __call__(
        self, terms: Terms, predicted: Array, loss: Array, counted: Array | None = None
    ) -> Array:
        """Returns the mean of the terms over the pairs, a scalar; losses are `[B, M]` float32."""


FEW = 512  # patches: beyond this, all pairs at once take much memory and minutes to compile
BLOCK = 16  # distances per block: 22 thousand pairs for a clip with 1,408 hidden patches


def every_pair(terms: Terms, predicted: Array, loss: Array, counted: Array | None = None) -> Array:
    """Averages over every unordered pair of the M columns of `[B, M]`."""
    values, weights = terms(_of_pairs(predicted, jnp.subtract), _of_pairs(loss, jnp.subtract))
    return _mean(values, weights, counted)


def all_pairs(count: int) -> Pairs:
    """Returns the mean over every pair of `count` patches, computed in blocks if there are many."""
    return every_pair if count <= FEW else pairs_in_blocks


def some_pairs(distances: int) -> Pairs:
    """Returns the mean over the pairs of each patch with the next ones on the circle.

    If the patches are in random order, the pairs are random, every patch occurs equally often, and
    the expectation is the mean over all pairs.

    Args:
        distances: number of next patches; there are `distances * M` pairs.
    """

    def pairs(terms: Terms, predicted: Array, loss: Array, counted: Array | None = None) -> Array:
        far = min(distances, predicted.shape[1] // 2)
        apart = (_of_pairs(x, jnp.subtract, far) for x in (predicted, loss))
        return _mean(*terms(*apart), counted, far)

    return pairs


def pairs_in_blocks(
    terms: Terms, predicted: Array, loss: Array, counted: Array | None = None
) -> Array:
    """Averages over every pair, one block of distances at a time, without an array of all pairs.

    The backward pass recomputes each block.
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
        # if the count is even, opposite columns occur twice: half of the circle is enough
        once = (2 * distance < count) | ((2 * distance == count) & columns)
        values, weights = terms(apart(predicted), apart(loss))
        weights = weights * once.astype(weights.dtype)
        if counted is not None:
            weights = weights * apart(counted.astype(weights.dtype), jnp.multiply)
        # summed per clip, so that devices that share a batch reduce once, after the loop
        of_clips = (jnp.sum(x, axis=(1, 2)) for x in (values * weights, weights))
        return jax.tree.map(jnp.add, sums, tuple(of_clips)), None

    starts = jnp.arange(1, half + 1, BLOCK)
    (total, weight), _ = jax.lax.scan(block, (jnp.zeros_like(predicted[:, 0]),) * 2, starts)
    return total.sum() / jnp.maximum(weight.sum(), 1.0)


def pairs_of_tubes(frames: int) -> Pairs:
    """Returns the mean over every pair of tubes; a tube's loss is the mean of `frames` patches.

    The patches `[B, M]` are in the order (frame, tube), as in a mask of tubes.
    """

    def pairs(terms: Terms, predicted: Array, loss: Array, counted: Array | None = None) -> Array:
        def of_tubes(x):
            return x.reshape(len(x), frames, -1).mean(axis=1)

        counts = None if counted is None else of_tubes(counted.astype(jnp.float32))
        return every_pair(terms, of_tubes(predicted), of_tubes(loss), counts)

    return pairs


def _of_pairs(x: Array, of: Callable[[Array, Array], Array], distances: int | None = None) -> Array:
    """Applies `of` to x[i] and x[i+d], d = 1...`distances`, circular: `[B, M]` to `[B, pairs]`."""
    count = x.shape[1]
    around = jnp.concatenate([x, x], axis=1)
    found = []
    for distance in range(1, 1 + (count // 2 if distances is None else distances)):
        # if the count is even, opposite columns occur twice: half of the circle is enough
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
