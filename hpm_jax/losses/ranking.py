"""Losses that teach a head to predict the reconstruction loss, or only to rank it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

RankingLoss = Callable[[Array, Array], Array]


def _pairs(x: Array) -> tuple[Array, Array]:
    """Every unordered pair of the M columns of `x` once: two arrays `[B, M (M - 1) / 2]`.

    A pair is a column and the one `d` further round the circle, for `d` up to half way; rolls
    differentiate into rolls, where indexing the upper triangle would differentiate into a scatter.
    """
    count = x.shape[1]
    around = jnp.concatenate([x, x], axis=1)
    first, second = [], []
    for distance in range(1, count // 2 + 1):
        # opposite columns meet twice when the count is even: half of the circle is enough
        length = count // 2 if 2 * distance == count else count
        first.append(x[:, :length])
        second.append(around[:, distance : distance + length])
    return jnp.concatenate(first, axis=1), jnp.concatenate(second, axis=1)


def relative(predicted: Array, loss: Array) -> Array:
    """Binary cross entropy on which patch of each pair has the higher loss (HPM, relative loss).

    `-log(sigmoid(d) + 1e-6)` with `d` the predicted loss of the harder patch less that of the
    easier one, averaged over all pairs of all images; ties do not count. Equals the official mean
    over ordered pairs.

    Args:
        predicted: `[B, M]` float32.
        loss: `[B, M]` float32, the true losses; no gradient flows into them.
    """
    left, right = _pairs(predicted)
    order = jnp.sign(jnp.subtract(*_pairs(jax.lax.stop_gradient(loss))))
    cost = -jnp.log(jax.nn.sigmoid(order * (left - right)) + 1e-6)
    counted = jnp.abs(order)
    return jnp.sum(cost * counted) / jnp.maximum(jnp.sum(counted), 1.0)


def absolute(predicted: Array, loss: Array) -> Array:
    """Squared error to the losses standardised within each image (HPM, absolute loss)."""
    loss = jax.lax.stop_gradient(loss)
    variance = loss.var(axis=1, keepdims=True, ddof=1)
    standardised = (loss - loss.mean(axis=1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
    return jnp.mean(jnp.square(predicted - standardised))


def pairs_ranked_correctly(predicted: Array, loss: Array) -> Array:
    """The share of pairs of patches whose order is predicted right: 0.5 is chance."""
    said, true = (jnp.sign(jnp.subtract(*_pairs(x))) for x in (predicted, loss))
    counted = jnp.abs(true)
    return jnp.sum(jnp.where(said == true, counted, 0.0)) / jnp.maximum(jnp.sum(counted), 1.0)


RANKING_LOSSES: dict[str, RankingLoss] = {"relative": relative, "absolute": absolute}
