"""The training step in parts of a batch and on several devices: the masks and gradients of one."""

import chex
import jax
import numpy as np
import pytest
from small import small_config
from test_step import FEATURES, TARGETS, mask_of, run

from hpm_jax.run.devices import Devices

VISIBLE = {"teacher": "moving_average(start=0.9, end=0.9, view='visible')"}
IN_INT8 = {"teacher": "moving_average(start=0.9, end=0.9, dtype='int8')"}


@TARGETS
def test_accumulation_changes_no_mask_and_no_gradient(changes):
    config = small_config(**changes)
    chex.assert_trees_all_equal(mask_of(config, 6), mask_of(config, 6, passes=4))
    whole, metrics = run(config, n_hard=6)
    parted, parted_metrics = run(config, n_hard=6, accumulation=4)
    for name, value in metrics.items():
        np.testing.assert_allclose(parted_metrics[name], value, rtol=1e-4)
    chex.assert_trees_all_close(whole.optimizer[1].mu, parted.optimizer[1].mu, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "changes"), [(2, {}), (8, {}), (8, FEATURES), (8, VISIBLE), (8, IN_INT8)]
)
def test_any_number_of_devices(count, changes):
    """As on one: the same masks, bit for bit, and the same update, up to the order of sums."""
    config = small_config(**changes)
    grid = np.array(jax.devices()[:count]).reshape(-1, 1)
    devices = Devices(jax.sharding.Mesh(grid, ("data", "fsdp")))
    where = {
        "put": lambda state: jax.device_put(state, devices.replicated),
        "put_images": devices.put,
    }
    chex.assert_trees_all_equal(mask_of(config, 6), jax.device_get(mask_of(config, 6, **where)))
    expected, metrics = run(config, n_hard=6)
    state, sharded_metrics = run(config, n_hard=6, **where)
    for name, value in metrics.items():
        np.testing.assert_allclose(sharded_metrics[name], value, rtol=1e-4)
    moments = [jax.device_get(s.optimizer[1].mu) for s in (expected, state)]
    chex.assert_trees_all_close(*moments, atol=1e-6)
