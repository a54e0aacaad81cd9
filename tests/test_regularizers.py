"""Regularizers of fine-tuning: each against its formula, and what the step makes of them."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.config import Augment, ConfigError, defaults, freeze
from hpm_jax.models import Classifier
from hpm_jax.regularizers import Counterfactual, Inputs, VirtualAdversarial
from hpm_jax.regularizers.adversarial import of_unit_size
from hpm_jax.step.finetune_step import Recipe, classification_loss, make_finetune_step, prepare
from hpm_jax.step.optimizer import FINETUNE_DECAYED, make_optimizer
from hpm_jax.step.schedules import FinetuneSchedule
from hpm_jax.step.state import fresh_state, init_params
from hpm_jax.tokens import Tokenizer

MODEL = Classifier((1, 4, 4), 16, classes=5, width=16, depth=2, heads=2, head_std=0.5)
NONE = Augment(policy="", erase=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0)
PLAIN = Recipe(Tokenizer((1, 4, 4), (0.5,), (0.5,)), NONE)
TERMS = (VirtualAdversarial(weight=2.0), Counterfactual(weight=3.0))
FULL = dataclasses.replace(PLAIN, regularizers=TERMS)
SCHEDULE = FinetuneSchedule(np.float32(1e-2), np.float32(0.0))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init_params(MODEL, jax.random.key(1)))()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    return images, rng.integers(0, 5, 8).astype(np.int32)


class Linear:
    """Logits that are linear in the pixels: the worst direction is known."""

    def __init__(self, kernel):
        self.kernel = kernel

    def apply(self, variables, patches):
        return patches.reshape(len(patches), -1) @ (self.kernel * variables["params"])


def divergence(first, second):
    p = np.exp(first - np.logaddexp.reduce(first, axis=1, keepdims=True))
    log_q = second - np.logaddexp.reduce(second, axis=1, keepdims=True)
    return (p * (np.log(p) - log_q)).sum(axis=1).mean()


def test_the_virtual_adversary_finds_the_worst_direction():
    """Of two classes it is plus or minus the difference of their weights, whatever the noise."""
    rng = np.random.default_rng(3)
    kernel, patches = rng.standard_normal((24, 2)), rng.standard_normal((6, 3, 8))
    term = VirtualAdversarial(size=0.3)
    model = Linear(jnp.asarray(kernel, jnp.float32))
    patches32 = jnp.asarray(patches, jnp.float32)
    drawn = term.draw_for(jax.random.key(4), patches32)
    logits = model.apply({"params": 1.0}, patches32)
    found = term(model, jnp.float32(1.0), Inputs(patches32, logits, drawn))
    direction = kernel[:, 0] - kernel[:, 1]
    worst = 0.3 * direction / np.sqrt(np.mean(direction**2))
    flat = patches.reshape(6, -1)
    signs = np.sign(np.asarray(drawn, np.float64).reshape(6, -1) @ direction)[:, None]
    expected = divergence(flat @ kernel, (flat + signs * worst) @ kernel)
    assert float(found) == pytest.approx(expected, rel=1e-3)
    random = 0.3 * np.asarray(of_unit_size(drawn), np.float64).reshape(6, -1)
    assert expected > 2 * divergence(flat @ kernel, (flat + random) @ kernel)


def test_unit_size():
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)), jnp.float32)
    scaled = np.asarray(of_unit_size(noise * jnp.float32(1e-25)))
    np.testing.assert_allclose(np.mean(scaled**2, axis=(1, 2)), 1.0, rtol=1e-5)
    assert not np.asarray(of_unit_size(jnp.zeros((2, 3, 4)))).any()


def test_counterfactuals_have_patches_of_another_image():
    patches = jnp.arange(4.0)[:, None, None] * jnp.ones((4, 400, 2))
    mixed = np.asarray(Counterfactual(ratio=0.3).draw_for(KEY, patches))[..., 0]
    for image in range(4):
        assert set(mixed[image]) == {image, (image - 1) % 4}
    assert np.mean(mixed != np.arange(4)[:, None]) == pytest.approx(0.3, abs=0.05)


def test_counterfactuals_cost_nothing_at_the_start(params, batch):
    """The features are those of the frozen encoder then; they are not afterwards."""
    term = Counterfactual()
    patches = prepare(MODEL, PLAIN, *batch, KEY, 0).patches
    frozen = term.freeze({"encoder": params["encoder"]})
    inputs = Inputs(patches, None, term.draw_for(KEY, patches), frozen)
    assert float(term(MODEL, params, inputs)) == 0.0
    moved = jax.tree.map(lambda x: x + 0.01, params)
    here = MODEL.apply({"params": moved}, inputs.drawn, method="features")
    there = MODEL.apply({"params": params}, inputs.drawn, method="features")
    expected = np.mean((np.asarray(here, np.float64) - np.asarray(there, np.float64)) ** 2)
    assert float(term(MODEL, moved, inputs)) == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_the_weighted_sum(params, batch):
    frozen = {"counterfactual": {"encoder": params["encoder"], "norm": params["norm"]}}
    moved = jax.tree.map(lambda x: x * 1.05, params)
    prepared = prepare(MODEL, FULL, *batch, KEY, 0)
    loss, (metrics, _) = jax.jit(classification_loss(MODEL, FULL, frozen))(
        moved, prepared, SCHEDULE
    )
    terms = {name: float(metrics[name]) for name in ("virtual_adversarial", "counterfactual")}
    assert all(value > 0 for value in terms.values())
    expected = float(metrics["cross_entropy"]) + 2.0 * terms["virtual_adversarial"]
    assert float(loss) == pytest.approx(expected + 3.0 * terms["counterfactual"], rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_is_the_same_in_parts(params, batch, accumulation):
    optimizer = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
    step = jax.jit(make_finetune_step(MODEL, FULL, optimizer, accumulation))
    frozen = {"counterfactual": {"encoder": params["encoder"], "norm": params["norm"]}}
    moved = jax.tree.map(lambda x: x * 1.05, params)
    state = fresh_state(moved, optimizer).replace(frozen=frozen)
    state, metrics = step(state, *batch, KEY, SCHEDULE)
    reference = classification_loss(MODEL, FULL, frozen)(
        moved, prepare(MODEL, FULL, *batch, KEY, 0), SCHEDULE
    )
    assert float(metrics["loss"]) == pytest.approx(float(reference[0]), rel=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    for frozen_leaf, before in zip(
        jax.tree.leaves(state.frozen), jax.tree.leaves(frozen), strict=True
    ):
        np.testing.assert_array_equal(frozen_leaf, before)


def finetuning(**changes):
    config = defaults("finetune")
    config.init_from = "somewhere"
    config.regularize.terms = ("vat(size=0.2)", "counterfactual")
    config.update(changes)
    return config


def test_they_are_named_by_calls():
    from hpm_jax.config.checks.finetune import check_finetune

    config = freeze(finetuning())
    assert config.regularize.terms == (VirtualAdversarial(size=0.2), Counterfactual())
    with pytest.raises(ConfigError, match="which keeps features near"):
        check_finetune(freeze(finetuning(weights="random")))
    config = finetuning()
    config.regularize.terms = ("vat", "virtual_adversarial")
    with pytest.raises(ConfigError, match="twice"):
        check_finetune(freeze(config))
    alone = SimpleNamespace(
        weights="student",
        data=SimpleNamespace(clips=1),
        optimizer=SimpleNamespace(batch_size=1),
    )
    with pytest.raises(ConfigError, match="at least 2"):
        Counterfactual().check(alone)
