"""The fine-tuning step: each part against a plain formula, the whole on one and many devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hpm_jax.config import Augment
from hpm_jax.models import Classifier
from hpm_jax.models.layers import drop_paths
from hpm_jax.models.positions import resize_positions, sincos_2d
from hpm_jax.run.devices import all_devices
from hpm_jax.step.finetune_step import (
    Recipe,
    classification_loss,
    make_finetune_step,
    max_suppression,
    prepare,
)
from hpm_jax.step.optimizer import (
    FINETUNE_DECAYED,
    decay_mask,
    layer_scales,
    layerwise,
    make_optimizer,
)
from hpm_jax.step.schedules import FinetuneSchedule
from hpm_jax.step.state import fresh_state, init_params
from hpm_jax.tokens import Tokenizer

MODEL = Classifier((1, 4, 4), 16, classes=5, width=16, depth=3, heads=2, head_std=0.5)
NONE = Augment(policy="", erase=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.0)
PLAIN = Recipe(Tokenizer((1, 4, 4), (0.5,), (0.5,)), NONE)
FULL = dataclasses.replace(PLAIN, augment=Augment(), drop_path=0.3, mask_sub=0.5, max_sup=True)
SCHEDULE = FinetuneSchedule(np.float32(1e-2), np.float32(0.3))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init_params(MODEL, jax.random.key(1)))()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 16, 16, 1), dtype=np.uint8)
    return images, rng.integers(0, 5, 16).astype(np.int32)


@jax.jit
def apply(params, patches, keep=None, drop=None):
    return MODEL.apply({"params": params}, patches, keep, drop)


def test_a_branch_that_is_dropped_leaves_the_residual(params):
    """With both branches of all blocks dropped, what goes in comes out."""
    patches = jax.random.normal(KEY, (2, 16, 16))
    drop = jnp.zeros((2, 3, 2))
    model = MODEL.clone(depth=1)
    one = params["encoder"]["transformer"]["blocks"]
    shallow = params | {
        "encoder": params["encoder"]
        | {"transformer": {"blocks": jax.tree.map(lambda x: 0 * x[:1], one)}}
    }
    without = jax.jit(model.apply)({"params": shallow}, patches)  # blocks of zeros add nothing
    np.testing.assert_allclose(apply(params, patches, drop=drop), without, rtol=1e-5, atol=1e-6)
    kept = apply(params, patches, drop=jnp.ones((2, 3, 2)))
    np.testing.assert_allclose(kept, apply(params, patches), rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(kept - without)).max() > 1e-2


def test_dropping_is_image_by_image(params):
    patches = jax.random.normal(KEY, (2, 16, 16))
    drop = jnp.ones((2, 3, 2)).at[1, 2, 0].set(0.0)
    logits = apply(params, patches, drop=drop)
    whole = apply(params, patches)
    np.testing.assert_allclose(logits[0], whole[0], rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(logits[1] - whole[1])).max() > 1e-3


def test_drop_rates_grow_with_depth():
    drop = np.asarray(drop_paths(KEY, 20000, 5, 0.4))
    rates = np.linspace(0, 0.4, 5)
    np.testing.assert_allclose((drop == 0).mean(axis=(0, 2)), rates, atol=0.01)
    for block, rate in enumerate(rates):
        kept = drop[:, block][drop[:, block] > 0]
        np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-6)
    assert abs(np.corrcoef(drop[:, 4, 0], drop[:, 4, 1])[0, 1]) < 0.03, "branches drop alone"


def test_the_loss_is_cross_entropy_where_nothing_is_asked_for(params, batch):
    images, labels = batch
    prepared = prepare(MODEL, PLAIN, images, labels, KEY, 0)
    loss, (metrics, _) = jax.jit(classification_loss(MODEL, PLAIN))(params, prepared, SCHEDULE)
    logits = np.asarray(apply(params, prepared.patches), np.float64)
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log[np.arange(16), labels].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert set(metrics) == {"loss", "cross_entropy"}


def test_mask_sub_and_max_sup(params, batch):
    images, labels = batch
    recipe = dataclasses.replace(PLAIN, mask_sub=0.5, max_sup=True)
    prepared = prepare(MODEL, recipe, images, labels, KEY, 0)
    assert prepared.keep.shape == (16, 8)
    loss, (metrics, _) = jax.jit(classification_loss(MODEL, recipe))(params, prepared, SCHEDULE)
    z = np.asarray(apply(params, prepared.patches), np.float64)
    again = np.asarray(apply(params, prepared.patches, prepared.keep), np.float64)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    first = -log_softmax(z)[np.arange(16), labels].mean()
    second = -(np.exp(log_softmax(z)) * log_softmax(again)).sum(axis=1).mean()
    suppressed = (z.max(axis=1) - z.mean(axis=1)).mean()
    assert float(loss) == pytest.approx(0.5 * first + 0.5 * second + 0.3 * suppressed, rel=1e-5)
    assert float(metrics["mask_sub"]) == pytest.approx(second, rel=1e-5)
    assert float(max_suppression(jnp.asarray(z, jnp.float32))) == pytest.approx(
        suppressed, rel=1e-5
    )


def test_mask_sub_teaches_without_being_taught(params, batch):
    """No gradient flows into the first pass from what the second learns from it."""
    images, labels = batch
    recipe = dataclasses.replace(PLAIN, mask_sub=0.5)
    prepared = prepare(MODEL, recipe, images, labels, KEY, 0)
    targets = jax.nn.softmax(apply(params, prepared.patches))  # a constant

    def by_hand(params):
        logits = apply(params, prepared.patches)
        again = apply(params, prepared.patches, prepared.keep)
        first = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return 0.5 * (first + optax.softmax_cross_entropy(again, targets).mean())

    loss = classification_loss(MODEL, recipe)
    ours = jax.jit(jax.grad(lambda p: loss(p, prepared, SCHEDULE)[0]))(params)
    assert_trees_close(ours, jax.jit(jax.grad(by_hand))(params))


def assert_trees_close(ours, theirs, rtol=1e-4):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def test_what_decays(params):
    decays = decay_mask(params, FINETUNE_DECAYED)
    assert decays["head"] == {"kernel": True, "bias": False}
    assert decays["encoder"]["positions"] is False and decays["encoder"]["cls_token"] is False
    assert decays["encoder"]["transformer"]["blocks"]["attention"]["qkv"]["kernel"] is True


def step_of(accumulation):
    optimizer = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
    shapes = jax.eval_shape(lambda: init_params(MODEL, KEY))
    rates = layerwise(layer_scales(shapes, 0.8))
    return make_finetune_step(MODEL, FULL, optimizer, accumulation, rates), optimizer


def test_one_device_at_once_or_eight_in_parts(params, batch):
    images, labels = batch
    step, optimizer = step_of(accumulation=1)
    state = fresh_state(params, optimizer)
    first, metrics = jax.jit(step)(state, images, labels, KEY, SCHEDULE)

    devices = all_devices()
    assert devices.count == 8
    step, _ = step_of(accumulation=2)
    state = jax.device_put(state, devices.replicated)
    arrays = [devices.put(x) for x in (images, labels)]
    jitted = jax.jit(step, out_shardings=devices.replicated)
    after, others = jitted(state, *arrays, KEY, SCHEDULE)
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=2e-4, err_msg=name)
    # AdamW divides by the gradient's size, so compare what it remembers of the gradient
    assert_trees_close(after.optimizer[1].mu, first.optimizer[1].mu, rtol=2e-3)


def test_a_batch_is_drawn_by_key_and_step(batch):
    images, labels = batch
    draw = jax.jit(lambda step: prepare(MODEL, FULL, images, labels, KEY, step))
    first, same, other = draw(0), draw(0), draw(1)
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (first, same, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert not np.array_equal(first.drop, first.drop_again)
    np.testing.assert_allclose(first.targets.sum(axis=1), 1.0, rtol=1e-5)


def test_dropout_before_the_head(params, batch):
    """Drawn by key and step for the whole batch; what the head reads is multiplied with it."""
    images, labels = batch
    recipe = dataclasses.replace(PLAIN, head_dropout=0.5, mask_sub=0.5)
    found = prepare(MODEL, recipe, images, labels, KEY, 3)
    assert found.drop is None and found.head_drop.shape == (16, 16)
    factors = np.asarray(found.head_drop)
    assert set(np.unique(factors)) == {0.0, 2.0} and 0.35 < (factors == 0).mean() < 0.65
    assert not np.array_equal(factors, found.head_drop_again)
    np.testing.assert_array_equal(prepare(MODEL, recipe, images, labels, KEY, 3).head_drop, factors)
    features = MODEL.apply({"params": params}, found.patches, method="features")
    expected = (features * factors) @ params["head"]["kernel"] + params["head"]["bias"]
    logits = MODEL.apply({"params": params}, found.patches, head_drop=found.head_drop)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    loss_of = classification_loss(MODEL, dataclasses.replace(recipe, mask_sub=0.0))
    loss, _ = loss_of(params, found, SCHEDULE)
    log = jax.nn.log_softmax(expected)
    np.testing.assert_allclose(loss, -(found.targets * log).sum(axis=1).mean(), rtol=1e-5)
    assert prepare(MODEL, PLAIN, images, labels, KEY, 3).head_drop is None


def test_a_moving_average_of_the_weights(params, batch):
    optimizer = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
    step = jax.jit(make_finetune_step(MODEL, PLAIN, optimizer))
    state = fresh_state(params, optimizer, teacher=True)
    schedule = SCHEDULE._replace(teacher_rate=np.float32(0.1))
    expected = params
    for _ in range(3):
        state, _ = step(state, *batch, KEY, schedule)
        expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, expected, state.params)
    assert_trees_close(state.teacher, expected, rtol=1e-5)


def test_positions_are_resized_smoothly_and_the_cls_row_stays():
    table = np.concatenate([np.full((1, 8), 7.0), sincos_2d(8, (1, 6, 6))])[None].astype(np.float32)
    same = resize_positions(table, (1, 6, 6), (1, 6, 6))
    np.testing.assert_allclose(same, table, atol=1e-6)
    larger = resize_positions(table, (1, 6, 6), (1, 9, 12))
    assert larger.shape == (1, 1 + 9 * 12, 8) and larger.dtype == np.float32
    np.testing.assert_array_equal(larger[:, 0], table[:, 0])
    # what torch.nn.functional.interpolate (bicubic, align_corners=False) makes of 0, 1, 2, 3
    ramp = np.concatenate([np.zeros((1, 1, 1)), np.arange(4.0).reshape(1, 4, 1)], axis=1)
    out = resize_positions(ramp.astype(np.float32), (1, 4, 1), (1, 8, 1))[0, 1:, 0]
    expected = [
        *(-0.10546875, 0.19140625, 0.66796875, 1.296875),
        *(1.703125, 2.33203125, 2.80859375, 3.10546875),
    ]
    np.testing.assert_allclose(out, expected, atol=1e-6)
