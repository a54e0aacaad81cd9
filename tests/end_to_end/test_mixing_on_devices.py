"""Mixing in groups of a batch that is spread over devices, in every mode."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_mixing_groups import KEYS

from hpm_jax.augmentation import MIXUP_MODES, mix


@pytest.mark.parametrize("mode", MIXUP_MODES)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_sharding_changes_nothing(groups, mode):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 8, 12, 3)).astype(np.float32)
    arrays = images, np.eye(16, dtype=np.float32)

    def augment(key, images, targets):
        return mix(key, images, targets, 0.8, 1.0, 1.0, 0.5, groups, mode)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(array, split) for array in arrays]
    compiled = jax.jit(augment, out_shardings=split).lower(KEYS[0], *placed).compile()
    alone = jax.jit(augment)
    for key in KEYS[:4]:
        for one, other in zip(alone(key, *arrays), compiled(key, *placed), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert "f32[16,8,12,3]" not in compiled.as_text(), "the whole batch on a device"
