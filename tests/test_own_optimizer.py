"""A plug's optimizer of its own, against AdamW written out; the others learn as they do without."""

import jax
import numpy as np
import pytest
from small import MAE, compiled_step, parts_of, schedule, small_config

from hpm_jax.plugs import OwnOptimizer
from hpm_jax.step.optimizer import make_optimizer

CLUSTERS = {
    "objective": "cross_entropy(temperature=0.12)",
    "losses": ("clustering",),
    "mask": {"strategy": "random"},
    "teacher": "moving_average",
    "optimizer": {"clip_norm": 0.1, "weight_decay": 0.3},
}
TARGET = "online_clusters(clusters=8, rate={})"


def tree(seed):
    """Parameters of a model and of two plugs; or gradients."""
    rng = np.random.default_rng(seed)

    def layer():
        draw = rng.normal(size=(3, 2)).astype(np.float32)
        return {"kernel": draw, "bias": rng.normal(size=2).astype(np.float32)}

    return {"encoder": {"kernel": layer()["kernel"]}, "terms": {"target": layer(), "x": layer()}}


def adamw(params, gradients, b1, b2, decay, rate):
    """The update after some gradients, in float64."""
    first = second = np.zeros(params.shape)
    for gradient in np.float64(gradients):
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
    steps = len(gradients)
    normed = (first / (1 - b1**steps)) / (np.sqrt(second / (1 - b2**steps)) + 1e-8)
    return rate * (normed + decay * params)


def test_two_optimizers():
    """The first plug has its own; clipping is by the norm of the rest, which alone is clipped."""
    params, gradients = tree(0), [tree(1), tree(2)]
    own = {"target": OwnOptimizer(rate=0.5, b1=0.8, b2=0.9, weight_decay=0.2)}
    optimizer = make_optimizer(0.9, 0.95, 1e-8, 0.05, 0.5, own=own)
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
    rest = [{"encoder": each["encoder"], "x": each["terms"]["x"]} for each in gradients]
    norms = [np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(each))) for each in rest]
    scales = [0.5 / norm for norm in norms]
    assert max(scales) < 1, "all are clipped"
    for name, decays in (("kernel", 1.0), ("bias", 0.0)):
        given = [each["terms"]["target"][name] for each in gradients]
        expected = adamw(params["terms"]["target"][name], given, 0.8, 0.9, 0.2 * decays, 0.5)
        np.testing.assert_allclose(updates["terms"]["target"][name], expected, rtol=1e-4)
        given = [each["terms"]["x"][name] * k for each, k in zip(gradients, scales, strict=True)]
        expected = adamw(params["terms"]["x"][name], given, 0.9, 0.95, 0.05 * decays, 1.0)
        np.testing.assert_allclose(updates["terms"]["x"][name], expected, rtol=1e-4)


def test_without_one_the_state_is_that_of_before():
    """Checkpoints of other methods keep their tree."""
    params = tree(0)
    state = make_optimizer(0.9, 0.95, 1e-8, 0.05, 5.0).init(params)
    assert jax.tree.structure(state[1].mu) == jax.tree.structure(params) and len(state) == 3


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_step(rate):
    """The head moves by its rate; the student moves the same at any."""
    config = small_config(**CLUSTERS, target=TARGET.format(rate))
    parts = parts_of(config)
    after, _ = compiled_step(config)(parts.state, parts.images, parts.key, schedule(rate=1e-2))
    before, head = (state.params["terms"]["target"]["kernel"] for state in (parts.state, after))
    # the first step of Adam is the sign of the gradient
    moved = np.abs(head - before * (1 - 1e-2 * rate * 0.01))
    np.testing.assert_allclose(moved, 1e-2 * rate, rtol=0.02, atol=1e-7)
    other = small_config(**CLUSTERS, target=TARGET.format(1.0))
    expected, _ = compiled_step(other)(parts.state, parts.images, parts.key, schedule(rate=1e-2))
    for name in ("encoder", "reconstructor"):
        pairs = (jax.tree.leaves(state.params[name]) for state in (after, expected))
        for ours, theirs in zip(*pairs, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_other_methods_have_one_optimizer():
    config = small_config(**MAE)
    assert all(plug.optimizer is None for plug in parts_of(config).method.plugs.values())
