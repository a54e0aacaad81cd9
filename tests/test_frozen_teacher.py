"""A frozen teacher: its attention and features are those of its model, and nothing moves it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import Parts, schedule, small_config
from small_weights import random_weights

from hpm_jax.config import ConfigError
from hpm_jax.convert.weights import Architecture, classifier
from hpm_jax.convert.write import write_weights
from hpm_jax.models.flops import transformer_flops
from hpm_jax.run.build import build_flops
from hpm_jax.step.mask import run_networks
from hpm_jax.step.step import make_train_step
from hpm_jax.tokens import Tokenizer

ENCODER = Architecture((1, 4, 4), patch_size=4, channels=1, width=24, depth=2, heads=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "e.npz"
    write_weights(path, random_weights(ENCODER), "timm")
    return f"frozen(path={str(path)!r}, mean=(0.25,), std=(0.2,))"


def config_of(saved, **changes):
    """Masks by attention, and a target that is a block of the same teacher."""
    start = {
        "teacher": saved,
        "target": "teacher_features(block=1, normalize='none')",
        "mask": {"strategy": "attention"},
        "losses": (),
        "optimizer": {"batch_size": 8},
    }
    return small_config(**start | changes)


def test_one_pass_serves_masks_and_target(saved):
    parts = Parts(config_of(saved))
    assert parts.method.target_width == 24 and parts.state.teacher is None
    patches = parts.method.patches(parts.images)
    found = jax.jit(lambda s: run_networks(parts.model, parts.method, s, patches, 2))(parts.state)
    weights = random_weights(ENCODER)
    encoder = classifier(weights).bind({"params": weights.params}).encoder
    pixels = Tokenizer((1, 4, 4), (0.25,), (0.2,))(parts.images)
    expected = encoder.outputs(pixels, collect=(0,), attention=True)
    attention = expected.attention.mean(axis=1)[:, 1:]
    np.testing.assert_allclose(found.units["teacher"]["attention"], attention, atol=1e-5)
    np.testing.assert_allclose(found.target["block_1"], expected.blocks[0][:, 1:], atol=2e-4)
    flops = build_flops(parts.config)
    only_masks = build_flops(config_of(saved, target="normalized_pixels"))
    block = 2 * 16 * 16 * 24 + transformer_flops(17, 24, 1)
    keys = 2 * 17 * 24**2
    assert only_masks.teacher == block + keys, "of the last block the keys alone"
    assert flops.student > only_masks.student + block
    assert build_flops(config_of(saved)).teacher == keys, "the target reads block 1 in every step"


def test_a_step(saved):
    """It trains; the frozen weights stay."""
    parts = Parts(config_of(saved))
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    state, metrics = step(parts.state, parts.images, parts.key, schedule(n_hard=12))
    assert np.isfinite(float(metrics["loss"])) and state.teacher is None
    chex.assert_trees_all_equal(state.frozen, parts.state.frozen)
    other = parts.state.replace(frozen=jax.tree.map(lambda x: jnp.asarray(x) * 1.5, state.frozen))
    assert step(other, parts.images, parts.key, schedule(n_hard=12))[1]["loss"] != metrics["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": {"strategy": "hard"}, "losses": ("ranking",)}, "predicts none: --config.teacher"),
        ({"target": "teacher_features(block=3)"}, "has 2 blocks .of config.teacher., so block is"),
        ({"losses": ("global_consistency",)}, "a head that the teacher has too"),
        ({"teacher": "frozen"}, "path is empty: expected a file of weights"),
    ],
)
def test_refused(saved, changes, message):
    with pytest.raises(ConfigError, match=message):
        config_of(saved, **changes)
