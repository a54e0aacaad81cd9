"""Every arm of the shipped comparisons is measured: its decoder, target and terms are evaluated."""

import jax
import jax.numpy as jnp
import pytest
from shipped_configs import VARIANTS, load

from hpm_jax.compare.arms import arm_configs
from hpm_jax.compare.run import build_arm
from hpm_jax.config import freeze
from hpm_jax.run.build import Start, build_init, build_optimizer

COMPARISONS = {
    f"{name}:{variant}": arm_configs(freeze(load(name, variant)))
    for name in VARIANTS
    if name.startswith("compare_")
    for variant in VARIANTS[name]
}


@pytest.mark.parametrize(
    ("comparison", "arm"), [(name, arm) for name, arms in COMPARISONS.items() for arm in arms]
)
def test_an_arm_is_measured(comparison, arm):
    config = COMPARISONS[comparison][arm]
    built = build_arm(arm, config)
    init = build_init(config, built.model, built.method, build_optimizer(config))
    state = jax.eval_shape(init, jax.random.key(0), Start())
    images = jax.ShapeDtypeStruct((4, *config.data.image_size, config.data.channels), jnp.uint8)
    moments = jax.eval_shape(built.rebuild, state, images, 0)
    assert all(jnp.issubdtype(x.dtype, jnp.floating) for x in moments.values())
