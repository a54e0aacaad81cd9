"""Features of the teacher as a target: what is read of it, when, and what is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, schedule, small_config

from hpm_jax.config import ConfigError
from hpm_jax.run.build import build_flops, build_method
from hpm_jax.step.mask import read_networks
from hpm_jax.step.step import make_train_step
from hpm_jax.targets.features import normalized

FEATURES = {"target": "teacher_features", "objective": "cosine"}


def read(config, n_hard, state=None):
    parts = parts_of(config)
    run = reader_of(config)
    return run(state or parts.state, parts.method.patches(parts.images), jnp.int32(n_hard))


@functools.cache
def reader_of(config):
    """`(state, patches, n_hard)` to what the networks say, compiled."""
    parts = parts_of(config)
    return jax.jit(functools.partial(read_networks, parts.model, parts.method))


def test_one_pass_serves_masks_and_target():
    """The strategy's part runs while patches are hard, the target's in every step."""
    hard = build_method(small_config(**FEATURES))
    assert hard.networks() == {"teacher": ("predicted_loss", "features")}
    assert hard.networks(hard=False) == {"teacher": ("features",)}
    random = build_method(small_config(**FEATURES, mask={"strategy": "random"}))
    assert random.networks() == random.networks(hard=False) == {"teacher": ("features",)}
    assert build_method(small_config()).networks(hard=False) == {}
    found, without = read(small_config(**FEATURES), 6), read(small_config(**FEATURES), 0)
    chex.assert_trees_all_close(found.target, without.target, atol=1e-6)
    assert found.units["teacher"]["predicted_loss"].any()
    assert not without.units["teacher"]["predicted_loss"].any()


def test_operations():
    """An encoder's pass in every step; the hard masks add the loss predictor alone."""
    pixels, features = build_flops(small_config()), build_flops(small_config(**FEATURES))
    random = build_flops(small_config(**FEATURES, mask={"strategy": "random"}))
    assert 0 < features.teacher < pixels.teacher and random.teacher == 0
    assert features.student == random.student > pixels.student


def test_the_teacher_gets_no_gradient_and_is_the_only_one_asked():
    """The update depends on the teacher; the teacher moves by its average alone."""
    parts = parts_of(small_config(**FEATURES))
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    other = parts.state.replace(teacher=jax.tree.map(lambda x: 1.5 * x, parts.state.teacher))
    results = [step(s, parts.images, parts.key, schedule()) for s in (parts.state, other)]
    assert results[0][1]["reconstruction"] != results[1][1]["reconstruction"]
    for state, (after, _) in zip((parts.state, other), results, strict=True):
        expected = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, state.teacher, after.params)
        chex.assert_trees_all_close(after.teacher, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, -3])
def test_a_block_before_the_norm(block):
    config = small_config(
        target=f"teacher_features(block={block}, normalize='none')", model={"depth": 3}
    )
    parts = parts_of(config)
    found = read(config, 0).target[f"block_{block}"]
    patches = parts.method.patches(parts.images)
    _, (expected,) = parts.model.apply(
        {"params": parts.state.teacher}, patches, (0,), method="encode"
    )
    np.testing.assert_allclose(found, expected[:, 1:], atol=1e-6)
    target = parts.method.target_of(patches, readings={f"block_{block}": found})
    np.testing.assert_array_equal(target, found)


def test_normalized():
    features = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 16)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(normalized(features, "l2"), axis=-1), 1, rtol=1e-6)
    found = normalized(features, "layer_norm")
    np.testing.assert_allclose(found.mean(axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(normalized(features, "none"), features)


def test_views_share_the_pass():
    """Two masks of each image have the target of the image, from one pass."""
    config = small_config(**FEATURES, mask={"views": 2}, optimizer={"batch_size": 4})
    parts = parts_of(config)
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    _, metrics = step(parts.state, parts.images, parts.key, schedule(3))
    assert np.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "none", "mask": {"strategy": "random"}}, "asks the teacher, and config.teach"),
        ({"teacher": "moving_average(every_steps=2)"}, "not kept from step to step: every_steps"),
        ({"teacher": "moving_average(view='parts')"}, "of the whole image: view = 'whole'"),
        ({"target": "teacher_features(block=2)"}, "the encoder has 1 blocks"),
        ({"target": "teacher_features(block=0)"}, "so block is from 1 to 1, or from -1 to -1"),
        ({"target": "teacher_features(normalize='l3')"}, "normalize = 'l3'"),
        ({"objective": "smooth_l1(beta=0)"}, "beta"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**FEATURES | changes)
