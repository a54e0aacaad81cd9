"""Losses for training a head to predict the reconstruction loss, or only its ranking."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float32, Int

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.pairs import PAIRS, Pairs, all_pairs, every_pair, pairs_of_tubes, some_pairs
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray, Mask

Losses = Float32[AnyArray, "B M"]  # of the hidden patches, true or predicted
Counted = Bool[AnyArray, "B M"] | None  # which patches count; None for all
Scalar = Float32[Array, ""]


def relative(
    predicted: Losses,
    loss: Losses,
    pairs: Pairs = every_pair,
    counted: Counted = None,
) -> Scalar:
    """Computes binary cross entropy on which patch of a pair has the higher loss (HPM, relative).

    `-log(sigmoid(d) + 1e-6)` with `d` the predicted loss of the harder patch minus that of the
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
    """Returns the cost of each pair and whether it counts, from the differences of pairs."""
    order = jnp.sign(loss)
    return -jnp.log(jax.nn.sigmoid(order * predicted) + 1e-6), jnp.abs(order)


def absolute(
    predicted: Losses,
    loss: Losses,
    counted: Counted = None,
) -> Scalar:
    """Computes squared error to the losses standardised in each image (HPM, absolute loss)."""
    loss = jax.lax.stop_gradient(loss)
    if counted is None:
        variance = loss.var(axis=1, keepdims=True, ddof=1)
        standardised = (loss - loss.mean(axis=1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
        return jnp.mean(jnp.square(predicted - standardised))
    weight = counted.astype(jnp.float32)
    count = weight.sum(axis=1, keepdims=True)
    centred = loss - jnp.sum(weight * loss, axis=1, keepdims=True) / count
    variance = jnp.sum(weight * jnp.square(centred), axis=1, keepdims=True)
    variance = variance / jnp.maximum(count - 1.0, 1.0)  # a single patch has no variance
    error = jnp.square(predicted - centred / jnp.sqrt(variance + 1e-6))
    return jnp.sum(weight * error) / weight.sum()


def pairs_ranked_correctly(
    predicted: Losses,
    loss: Losses,
    pairs: Pairs = every_pair,
    counted: Counted = None,
) -> Scalar:
    """Computes the ranking accuracy: the fraction of pairs in the right order; 0.5 is chance."""
    return pairs(_right, predicted, loss, counted)


def _right(predicted: Array, loss: Array) -> tuple[Array, Array]:
    return (jnp.sign(predicted) == jnp.sign(loss)).astype(jnp.float32), jnp.abs(jnp.sign(loss))


@dataclasses.dataclass(frozen=True, repr=False)
class LossPrediction(Term):
    """Base class of terms that train the loss predictor; it reports the ranking accuracy."""

    pairs: str = option(
        "all",
        "pairs to rank: all pairs of patches, pairs of tubes, or sampled pairs",
        choices=PAIRS,
    )
    distances: int = positive(8, "number of pairs per hidden patch, for 'sampled'", high=10**4)

    predicts_loss: ClassVar[bool] = True
    of_hidden: ClassVar[bool] = True
    reported: ClassVar[str] = "ranking"

    def check(self, config: Any) -> None:
        """Checks that pairs of tubes have a tube mask, and that there are two to rank."""
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

    def draw(self, key: Array, mask: Mask) -> Int[Array, "B M"] | None:
        """Returns the order in which patches are paired, `[B, M]`; None if every pair counts."""
        if self.pairs != "sampled":
            return None
        return jnp.argsort(jax.random.uniform(key, mask.hide.shape), axis=1)

    def _of_pairs(self, outputs: Outputs) -> Pairs:
        if self.pairs == "tubes":
            return pairs_of_tubes(outputs.unit.size)
        if self.pairs == "sampled":
            return some_pairs(self.distances)
        return all_pairs(outputs.losses.shape[1])

    def __call__(self, outputs: Outputs) -> tuple[Scalar, dict[str, Scalar]]:
        """Returns the loss and the ranking accuracy."""
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

    def loss(
        self,
        predicted: Losses,
        true: Losses,
        pairs: Pairs,
        counted: Counted,
    ) -> Scalar:
        """Returns the loss of predicted against true losses `[B, M]`, a scalar."""
        raise TypeError(f"{type(self).__name__} has no loss")


@register("ranking", "relative")
class Relative(LossPrediction):
    """Predicts which of two patches has the higher loss (HPM, the relative loss)."""

    def loss(
        self,
        predicted: Losses,
        true: Losses,
        pairs: Pairs,
        counted: Counted,
    ) -> Scalar:
        """See `relative`."""
        return relative(predicted, true, pairs, counted)


@register("absolute")
class Absolute(LossPrediction):
    """Predicts the losses, standardised in each image (HPM, the absolute loss)."""

    def loss(
        self,
        predicted: Losses,
        true: Losses,
        pairs: Pairs,
        counted: Counted,
    ) -> Scalar:
        """See `absolute`."""
        return absolute(predicted, true, counted)
