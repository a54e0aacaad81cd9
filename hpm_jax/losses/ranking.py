"""Losses that teach a head to predict the reconstruction loss, or only to rank it."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.pairs import PAIRS, Pairs, all_pairs, every_pair, pairs_of_tubes, some_pairs
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import register
from hpm_jax.tokens import Mask


def relative(
    predicted: Array, loss: Array, pairs: Pairs = every_pair, counted: Array | None = None
) -> Array:
    """Binary cross entropy on which patch of each pair has the higher loss (HPM, relative loss).

    `-log(sigmoid(d) + 1e-6)` with `d` the predicted loss of the harder patch less that of the
    easier one, averaged over all pairs of all images; ties do not count. Equals the official mean
    over ordered pairs.

    Args:
        predicted: `[B, M]` float32.
        loss: `[B, M]` float32, the true losses; no gradient flows into them.
        pairs: which pairs; see `hpm_jax/losses/pairs.py`.
        counted: `[B, M]`, the patches that count; None for all.
    """
    return pairs(_cost, predicted, jax.lax.stop_gradient(loss), counted)


def _cost(predicted: Array, loss: Array) -> tuple[Array, Array]:
    """Of the differences of pairs: what each costs, and whether it counts."""
    order = jnp.sign(loss)
    return -jnp.log(jax.nn.sigmoid(order * predicted) + 1e-6), jnp.abs(order)


def absolute(predicted: Array, loss: Array, counted: Array | None = None) -> Array:
    """Squared error to the losses standardised within each image (HPM, absolute loss)."""
    loss = jax.lax.stop_gradient(loss)
    if counted is None:
        variance = loss.var(axis=1, keepdims=True, ddof=1)
        standardised = (loss - loss.mean(axis=1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
        return jnp.mean(jnp.square(predicted - standardised))
    weight = counted.astype(jnp.float32)
    count = weight.sum(axis=1, keepdims=True)
    centred = loss - jnp.sum(weight * loss, axis=1, keepdims=True) / count
    variance = jnp.sum(weight * jnp.square(centred), axis=1, keepdims=True)
    variance = variance / jnp.maximum(count - 1.0, 1.0)  # of one patch there is none
    error = jnp.square(predicted - centred / jnp.sqrt(variance + 1e-6))
    return jnp.sum(weight * error) / weight.sum()


def pairs_ranked_correctly(
    predicted: Array, loss: Array, pairs: Pairs = every_pair, counted: Array | None = None
) -> Array:
    """The share of pairs of patches whose order is predicted right: 0.5 is chance."""
    return pairs(_right, predicted, loss, counted)


def _right(predicted: Array, loss: Array) -> tuple[Array, Array]:
    return (jnp.sign(predicted) == jnp.sign(loss)).astype(jnp.float32), jnp.abs(jnp.sign(loss))


@dataclasses.dataclass(frozen=True, repr=False)
class LossPrediction(Term):
    """Teaches the loss predictor, and measures how well it ranks."""

    pairs: str = option(
        "all", "which pairs are ranked: all, of tubes in place of patches, or some", choices=PAIRS
    )
    distances: int = positive(8, "sampled: so many pairs for each hidden patch")

    predicts_loss: ClassVar[bool] = True
    reported: ClassVar[str] = "ranking"

    def check(self, config: Any) -> None:
        """Pairs of tubes need tubes, and a ranking needs two."""
        if self.pairs == "tubes" and config.mask.unit != "tube":
            raise ConfigError(
                f"config.losses has {str(self)!r}, which ranks tubes, and config.mask.unit = "
                f"{config.mask.unit!r} hides patches one by one: set it to tube, or rank all or "
                "sampled pairs."
            )
        tubes = self.pairs == "tubes"
        if (config.hidden_units if tubes else config.hidden) < 2:
            raise ConfigError(
                f"config.mask.ratio = {config.mask.ratio} hides 1 {'tube' if tubes else 'patch'}, "
                "and a ranking needs two: raise the ratio, or set --config.losses='()'."
            )

    def draw(self, key: Array, mask: Mask) -> Array | None:
        """The order in which hidden patches are paired, `[B, M]`; None where every pair counts."""
        if self.pairs != "sampled":
            return None
        return jnp.argsort(jax.random.uniform(key, mask.hide.shape), axis=1)

    def _of_pairs(self, outputs: Outputs) -> Pairs:
        if self.pairs == "tubes":
            return pairs_of_tubes(outputs.unit.size)
        if self.pairs == "sampled":
            return some_pairs(self.distances)
        return all_pairs(outputs.losses.shape[1])

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """The ranking loss, and the share of pairs ranked correctly."""
        predicted, true, counted = outputs.predicted, outputs.losses, outputs.mask.counted
        assert predicted is not None  # the model has a loss predictor: `predicts_loss`
        order = outputs.own.drawn
        if order is not None:
            predicted, true = (jnp.take_along_axis(x, order, axis=1) for x in (predicted, true))
            counted = None if counted is None else jnp.take_along_axis(counted, order, axis=1)
        pairs = self._of_pairs(outputs)
        loss = self.loss(predicted, true, pairs, counted)
        right = pairs_ranked_correctly(predicted, true, pairs, counted)
        return loss, {"ranked_correctly": right}

    def loss(self, predicted: Array, true: Array, pairs: Pairs, counted: Array | None) -> Array:
        """Of predicted and true losses `[B, M]`, a scalar."""
        raise TypeError(f"{type(self).__name__} has no loss")


@register("ranking", "relative")
class Relative(LossPrediction):
    """Which of two patches has the higher loss (HPM, the relative loss); see `relative`."""

    def loss(self, predicted: Array, true: Array, pairs: Pairs, counted: Array | None) -> Array:
        """See `relative`."""
        return relative(predicted, true, pairs, counted)


@register("absolute")
class Absolute(LossPrediction):
    """The losses themselves, standardised in each image (HPM, the absolute loss)."""

    def loss(self, predicted: Array, true: Array, pairs: Pairs, counted: Array | None) -> Array:
        """See `absolute`."""
        return absolute(predicted, true, counted)
