"""Losses that teach a head to predict the reconstruction loss, or only to rank it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.losses.pairs import Pairs, every_pair

RankingLoss = Callable[[Array, Array], Array]


def relative(predicted: Array, loss: Array, pairs: Pairs = every_pair) -> Array:
    """Binary cross entropy on which patch of each pair has the higher loss (HPM, relative loss).

    `-log(sigmoid(d) + 1e-6)` with `d` the predicted loss of the harder patch less that of the
    easier one, averaged over all pairs of all images; ties do not count. Equals the official mean
    over ordered pairs.

    Args:
        predicted: `[B, M]` float32.
        loss: `[B, M]` float32, the true losses; no gradient flows into them.
        pairs: which pairs; see `hpm_jax/losses/pairs.py`.
    """
    return pairs(_cost, predicted, jax.lax.stop_gradient(loss))


def _cost(predicted: Array, loss: Array) -> tuple[Array, Array]:
    """Of the differences of pairs: what each costs, and whether it counts."""
    order = jnp.sign(loss)
    return -jnp.log(jax.nn.sigmoid(order * predicted) + 1e-6), jnp.abs(order)


def absolute(predicted: Array, loss: Array) -> Array:
    """Squared error to the losses standardised within each image (HPM, absolute loss)."""
    loss = jax.lax.stop_gradient(loss)
    variance = loss.var(axis=1, keepdims=True, ddof=1)
    standardised = (loss - loss.mean(axis=1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
    return jnp.mean(jnp.square(predicted - standardised))


def pairs_ranked_correctly(predicted: Array, loss: Array, pairs: Pairs = every_pair) -> Array:
    """The share of pairs of patches whose order is predicted right: 0.5 is chance."""
    return pairs(_right, predicted, loss)


def _right(predicted: Array, loss: Array) -> tuple[Array, Array]:
    return (jnp.sign(predicted) == jnp.sign(loss)).astype(jnp.float32), jnp.abs(jnp.sign(loss))


RANKING_LOSSES: dict[str, Callable[..., Array]] = {"relative": relative, "absolute": absolute}
