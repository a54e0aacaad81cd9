"""An update that would do harm is passed over inside the step, and nothing but its number moves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, schedule, small_config

from hpm_jax.step.guard import WARM_UP, guarded, new_history, pass_over
from hpm_jax.step.step import make_train_step


@pytest.fixture(scope="module")
def parts():
    return parts_of(small_config())


def no_harm(state, metrics):
    return state, metrics


@functools.cache
def step_of(spike=0.0, harm=no_harm):
    """The guarded step, compiled once for all tests."""
    parts = parts_of(small_config())
    step = make_train_step(parts.model, parts.method, parts.optimizer)
    return jax.jit(guarded(lambda *inputs: harm(*step(*inputs)), spike))


def start_of(parts, log_norm=0.0, steps=0.0):
    history = new_history()._replace(log_norm=jnp.float32(log_norm), steps=jnp.float32(steps))
    return parts.state.replace(history=history)


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_good_step_is_what_it_was(parts):
    inputs = parts.images, parts.key, schedule()
    plain, metrics = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))(
        parts.state, *inputs
    )
    after, guarded_metrics = step_of(10.0)(start_of(parts), *inputs)
    assert same(plain, after.replace(history=None))
    assert guarded_metrics.pop("passed_over") == 0.0
    assert same(metrics, guarded_metrics)
    assert after.history.steps == 1.0
    np.testing.assert_allclose(after.history.log_norm, np.log(metrics["gradient_norm"]), rtol=1e-6)


def broken_parameter(state, metrics):
    kernel = state.params["encoder"]["patch_embedding"]["projection"]["bias"]
    params = jax.tree.map(lambda x: x * jnp.nan if x.shape == kernel.shape else x, state.params)
    return state.replace(params=params), metrics


@pytest.mark.parametrize(
    "harm",
    [
        lambda state, metrics: (state, metrics | {"loss": jnp.float32(jnp.nan)}),
        lambda state, metrics: (state, metrics | {"gradient_norm": jnp.float32(jnp.inf)}),
        broken_parameter,  # finite loss and gradient, and an update that overflows
    ],
)
def test_an_update_that_is_not_finite_is_passed_over(parts, harm):
    start = start_of(parts, 1.0, 5.0)
    after, metrics = step_of(harm=harm)(start, parts.images, parts.key, schedule())
    assert metrics["passed_over"] == 1.0
    assert after.step == start.step + 1
    assert same(after, pass_over(start))  # history, moments and teacher too


@pytest.mark.parametrize(("steps", "passed"), [(WARM_UP - 1, 0.0), (WARM_UP, 1.0)])
def test_a_spike_needs_a_history(parts, steps, passed):
    # a mean norm of exp(-9) makes any gradient of this model a spike
    start = start_of(parts, -9.0, steps)
    _, metrics = step_of(10.0)(start, parts.images, parts.key, schedule())
    assert metrics["passed_over"] == passed
    _, metrics = step_of(0.0)(start, parts.images, parts.key, schedule())
    assert metrics["passed_over"] == 0.0  # nothing is a spike by a threshold of 0
