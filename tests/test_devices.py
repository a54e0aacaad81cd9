"""The same update however the devices are arranged: one, many, sharded parameters, pmap."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small import compiled_step, parts_of, schedule, small_config

from hpm_jax.config import ConfigError
from hpm_jax.plan.program import work
from hpm_jax.run import devices as module
from hpm_jax.run.build import build_sharded_step
from hpm_jax.run.devices import all_devices
from hpm_jax.step.step import make_train_step

CONFIG = small_config(mask={"strategy": "hard(start=0.5)"})


@pytest.fixture
def everything_is_split(monkeypatch):
    """Small parameters too, so that a small model tests the rule."""
    monkeypatch.setattr(module, "SMALL", 8)


@functools.cache
def expected():
    """The update on one device."""
    parts = parts_of(CONFIG)
    return compiled_step(CONFIG)(parts.state, parts.images, parts.key, schedule(n_hard=6))


def assert_same_update(found):
    (state, metrics), (wanted, wanted_metrics) = found, expected()
    for name, value in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    # what AdamW remembers of the gradient: its update divides by that, rounding errors included
    ours, theirs = (jax.tree.leaves(s.optimizer[1].mu) for s in (state, wanted))
    for one, other in zip(ours, theirs, strict=True):
        # a few gradients are zero but for rounding, as that of the key's bias
        np.testing.assert_allclose(one, other, atol=2e-4 * np.abs(other).max() + 1e-8)


def test_sharded_parameters(everything_is_split):
    """Two by four devices."""
    parts, devices = parts_of(CONFIG), all_devices(fsdp=4)
    placement = devices.shardings(parts.state)
    state = jax.device_put(parts.state, placement)
    kernel = state.params["encoder"]["transformer"]["blocks"]["Dense_0"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    adam = state.optimizer[1].mu["encoder"]["transformer"]["blocks"]["Dense_0"]["kernel"]
    assert adam.sharding == kernel.sharding, "the optimizer lies as its parameter does"
    model = parts.model.clone(gather=devices.gather)
    step = make_train_step(model, parts.method, parts.optimizer)
    jitted = jax.jit(step, out_shardings=(placement, devices.replicated))
    found = jitted(state, devices.put(parts.images), parts.key, schedule(n_hard=6))
    assert_same_update(found)
    assert jax.tree.map(lambda x: x.sharding, found[0]) == placement, "it can go on as it is"


def test_parameters_travel_and_activations_do_not(everything_is_split):
    """Blocks are gathered by teacher, student and backward pass; gradients are summed once."""
    config = small_config(mask={"strategy": "hard(start=0.5)"}, optimizer={"batch_size": 256})
    step = build_sharded_step(config, all_devices(fsdp=4))
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    compiled = step.step.lower(step.state, step.images, key, schedule(n_hard=6)).compile()
    sent = work(compiled.as_text()).collectives
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(step.state.params))
    assert 1.5 * whole < sent["all-gather"][1] < 3.2 * whole
    assert sum(size for _, size in sent.values()) < 4.5 * whole


def test_the_step_can_be_pmapped():
    """One program on two devices with the whole batch each: the step is pure."""
    parts = parts_of(CONFIG)
    step = make_train_step(parts.model, parts.method, parts.optimizer)
    mapped = jax.pmap(step, in_axes=(0, None, None, None))
    states = jax.tree.map(lambda x: np.stack([x, x]), parts.state)
    found = mapped(states, parts.images, parts.key, schedule(n_hard=6))
    for index in range(2):
        assert_same_update(jax.tree.map(lambda x, index=index: np.asarray(x)[index], found))


def test_rows_of_a_batch_cover_it():
    for fsdp in (1, 2, 4):
        devices = all_devices(fsdp)
        np.testing.assert_array_equal(devices.rows(16), np.arange(16))  # one process has all
        whole = np.arange(16, dtype=np.float32)
        for put in (devices.put, devices.put_whole):
            np.testing.assert_array_equal(put(whole), whole)


def test_meshes_that_the_devices_do_not_fill():
    with pytest.raises(ConfigError, match=r"config\.run\.fsdp = 3 does not divide the 8 devices"):
        all_devices(3)


def test_a_parameter_that_cannot_be_split(everything_is_split):
    shapes = {
        name: {"odd": jax.ShapeDtypeStruct((8, 7, 9), np.float32)} for name in ("blocks", "x")
    }
    with pytest.raises(ConfigError, match=r"any axis of \['blocks'\]\['odd'\] with shape"):
        all_devices(2).shardings(shapes)
    assert all_devices(1).shardings(shapes)["blocks"]["odd"].spec == PartitionSpec()
    del shapes["blocks"]
    assert all_devices(2).shardings(shapes)["x"]["odd"].spec == PartitionSpec()
