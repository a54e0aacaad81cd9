"""How far a prediction is from its target: objectives `[B, M, D]` to `[B, M]`, and their mean."""

import abc

import jax.numpy as jnp
from jax import Array

from hpm_jax.losses.term import Outputs, Term, mean_of
from hpm_jax.plugs import Plug, register


class Objective(Plug, kind="objective"):
    """From prediction and target to a loss of each patch, never reduced over patches.

    So the loss predictor learns from any of them.
    """

    @abc.abstractmethod
    def __call__(self, prediction: Array, target: Array) -> Array:
        """`[B, M, D]` and `[B, M, D]` to `[B, M]` float32."""


def squared_error(prediction: Array, target: Array) -> Array:
    """The squared error of each patch, averaged over its values: `[B, M, D]` to `[B, M]`."""
    return jnp.mean(jnp.square(prediction - target), axis=-1)


@register("squared_error", "mse")
class SquaredError(Objective):
    """The mean square over the values of a patch (MAE, HPM)."""

    def __call__(self, prediction: Array, target: Array) -> Array:
        """See `squared_error`."""
        return squared_error(prediction, target)


@register("absolute_error", "l1")
class AbsoluteError(Objective):
    """The mean absolute difference over the values of a patch (SimMIM)."""

    def __call__(self, prediction: Array, target: Array) -> Array:
        """`mean |prediction - target|`."""
        return jnp.mean(jnp.abs(prediction - target), axis=-1)


@register("reconstruction")
class Reconstruction(Term):
    """The objective's mean over the hidden patches; there unless a config weighs it itself."""

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """The mean."""
        return mean_of(outputs.losses, outputs.mask), {}


def compared(objective: Objective, prediction: Array, target: Array) -> Array:
    """The objective, with its shapes asserted: nothing broadcasts.

    Raises:
        ValueError: where prediction and target, or the losses, have other shapes than they should.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction is {prediction.shape} and the target {target.shape}: the `width` of a "
            "target has to be the last axis of what it returns"
        )
    losses = objective(prediction, target)
    if losses.shape != prediction.shape[:2]:
        raise ValueError(
            f"the objective {objective} gives {losses.shape} of a prediction {prediction.shape}: "
            f"expected a loss of each patch, {prediction.shape[:2]}"
        )
    return losses
