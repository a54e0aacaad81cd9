"""A step that keeps the state from before where the numbers went wrong, inside the same program."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hpm_jax.step.state import TrainState

WARM_UP = 100  # steps before a gradient can be a spike
DECAY = 0.99  # of the running mean


class History(NamedTuple):
    """What gradients have been like."""

    log_norm: Array  # float32: the running mean of the logarithm of the gradient's norm
    steps: Array  # float32: how many it has seen


def new_history() -> History:
    """Of no step."""
    return History(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def with_history(init: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """The first state, and an empty history in it."""
    return lambda *inputs: init(*inputs).replace(history=new_history())


def guarded(step: Callable[..., Any], spike: float = 0.0) -> Callable[..., Any]:
    """Builds a step that passes over an update that would do harm.

    An update is passed over where the loss, the gradient's norm or a new parameter is not finite,
    or where the norm is a spike. Then all but the number of the step stays as it was. The metric
    `passed_over` is 1.0 for such a step, else 0.0.

    Args:
        step: `(state, ...) -> (state, metrics)`, whose metrics have `loss` and `gradient_norm`.
        spike: how many times its running geometric mean the norm has to be to count as one; 0 for
            never. The mean needs `WARM_UP` steps before it is asked.
    """

    def guarded_step(state: TrainState, *inputs: Any) -> tuple[TrainState, dict[str, Array]]:
        after, metrics = step(state, *inputs)
        norm = metrics["gradient_norm"]
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        good &= jnp.isfinite(optax.tree.norm(after.params))
        log_norm = jnp.log(jnp.maximum(norm, 1e-30))
        mean, steps = state.history
        if spike:
            good &= (steps < WARM_UP) | (log_norm - mean < math.log(spike))
        rate = jnp.maximum(1.0 / (steps + 1.0), 1.0 - DECAY)
        after = after.replace(history=History(mean + rate * (log_norm - mean), steps + 1.0))
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
        passed_over = 1.0 - good.astype(jnp.float32)
        return kept.replace(step=after.step), {**metrics, "passed_over": passed_over}

    return guarded_step


def pass_over(state: TrainState) -> TrainState:
    """The state after a step whose batch is passed over: only the number of the step moves."""
    return state.replace(step=state.step + 1)
