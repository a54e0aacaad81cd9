"""From a loss to new parameters: gradients, in parts or at once, the optimizer, the teacher."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Shaped

from hpm_jax.step.optimizer import Descend, descend
from hpm_jax.step.state import Params, TrainState
from hpm_jax.tokens import AnyArray

Metrics = dict[str, Array]


def make_update(
    loss_of: Callable[[Params, Any, Any], tuple[Array, tuple[Metrics, Any]]],
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
    descend: Descend = descend,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, tuple[Metrics, Any]]]:
    """Builds the second half of every step: `(state, batch, schedule) -> (state, auxiliary)`.

    Args:
        loss_of: `(params, batch, schedule) -> (loss, (metrics, others))`, means over the batch;
            the pair is the auxiliary, the gradient's norm added to the metrics.
        optimizer: from `make_optimizer`.
        accumulation: into how many parts, one after the other, a batch is cut. A batch is any
            pytree of arrays with a leading axis of images.
        descend: how far each parameter goes; see `hpm_jax/step/optimizer.py`.
    """

    def gradients(params: Params, batch: Any, schedule: Any):
        return jax.grad(loss_of, has_aux=True)(params, batch, schedule)

    def mean_gradients(params: Params, batch: Any, schedule: Any):
        parts = jax.tree.map(lambda x: split(x, accumulation), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradients, params, first, schedule)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradients(params, part, schedule)), None

        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / accumulation, total)

    compute = gradients if accumulation == 1 else mean_gradients

    def update(state: TrainState, batch: Any, schedule: Any):
        grads, (metrics, others) = compute(state.params, batch, schedule)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = descend(state.params, updates, schedule.learning_rate)
        teacher = state.teacher
        if teacher is not None:
            rate = schedule.teacher_rate
            teacher = jax.tree.map(lambda old, new: old + rate * (new - old), teacher, params)
        state = state.replace(
            step=state.step + 1, params=params, teacher=teacher, optimizer=optimizer_state
        )
        return state, (metrics, others)

    return update


def split(batch: Shaped[AnyArray, "B ..."], parts: int) -> Shaped[Array, "parts part ..."]:
    """`[B, ...]` to `[parts, B / parts, ...]`, strided, so that a sharded batch stays in place."""
    return jnp.swapaxes(batch.reshape(batch.shape[0] // parts, parts, *batch.shape[1:]), 0, 1)


def join_parts(parts: Shaped[AnyArray, "parts part ..."]) -> Shaped[Array, "B ..."]:
    """The inverse of `split`."""
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])
