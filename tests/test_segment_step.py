"""The segmentation step: loss, frozen encoders and learning rates, each against a plain formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_segmenter import KEY, MODEL, RECIPE, SCHEDULE, small_batch, small_params

from hpm_jax.config import defaults, freeze
from hpm_jax.evaluation.windows import enlarge
from hpm_jax.models.flops import segmenter_flops, transformer_flops
from hpm_jax.models.segmenter import enlarge_logits
from hpm_jax.step.optimizer import FINETUNE_DECAYED, make_optimizer
from hpm_jax.step.schedules import SegmentTimetable, warmup_linear
from hpm_jax.step.segment_step import (
    learning_rates,
    make_segment_step,
    pixel_losses,
    prepare,
    segmentation_loss,
)
from hpm_jax.step.state import fresh_state, init_params, param_shapes


@pytest.fixture(scope="module")
def params():
    return small_params()


@pytest.fixture(scope="module")
def batch():
    return small_batch()


def numpy_loss(model, params, batch):
    images, labels = batch
    logits = model.apply({"params": params}, RECIPE.tokenizer(images))
    logits = np.asarray(enlarge_logits(logits, (16, 16)), np.float64)
    log = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    known = labels >= 0
    own = np.take_along_axis(log, np.maximum(labels, 0)[..., None].astype(int), axis=-1)[..., 0]
    return -own[known].mean()


def state_of(params):
    """A state of a model without running averages."""
    return fresh_state(params, make_optimizer(0.9, 0.999, 1e-8, 0.05, None))


def test_the_loss_is_the_mean_over_labelled_pixels(params, batch):
    prepared = prepare(MODEL, RECIPE, *batch, KEY, 0)
    loss_of = segmentation_loss(MODEL, RECIPE, state_of(params))
    loss, (metrics, _) = jax.jit(loss_of)(params, prepared, SCHEDULE)
    assert float(loss) == pytest.approx(numpy_loss(MODEL, params, batch), rel=1e-5)
    assert float(metrics["labelled"]) == pytest.approx((batch[1] >= 0).mean())


def test_pixels_that_are_left_out_have_no_influence(batch):
    logits = jax.random.normal(KEY, (2, 16, 16, 3))
    labels = batch[1][:2]
    losses = pixel_losses(logits, labels)
    assert np.all(np.asarray(losses)[labels < 0] == 0) and np.all(np.asarray(losses) >= 0)
    gradient = jax.grad(lambda x: pixel_losses(x, labels).sum())(logits)
    assert np.all(np.asarray(gradient)[labels < 0] == 0)
    assert np.abs(np.asarray(gradient)[labels >= 0]).max() > 0


def test_a_batch_without_labels_changes_nothing_through_the_loss(params, batch):
    images, labels = batch
    prepared = prepare(MODEL, RECIPE, images, np.full_like(labels, -1), KEY, 0)
    loss, _ = segmentation_loss(MODEL, RECIPE, state_of(params))(params, prepared, SCHEDULE)
    assert float(loss) == 0


def one_step(model, params, batch, recipe=RECIPE, decay=0.5, key=KEY, devices=None):
    optimizer = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
    rates = learning_rates(params, model, decay)
    step = make_segment_step(model, recipe, optimizer, rates)
    state = jax.jit(lambda: fresh_state(params, optimizer))()
    arrays = batch if devices is None else [devices.put(x) for x in batch]
    return jax.jit(step)(state, *arrays, key, SCHEDULE)


def test_mask_sup_against_plain_formulas(params, batch):
    """Two passes, both supervised, and their distance; hidden patches are zeros."""
    recipe = dataclasses.replace(RECIPE, mask_sup=0.5, similarity=3.0)
    prepared = prepare(MODEL, recipe, *batch, KEY, 0)
    assert set(np.unique(prepared.shown)) == {0.0, 1.0} and prepared.shown.shape == (8, 16, 1)
    assert 0.3 < float(prepared.shown.mean()) < 0.7
    loss, (metrics, _) = jax.jit(segmentation_loss(MODEL, recipe, state_of(params)))(
        params, prepared, SCHEDULE
    )
    patches = RECIPE.tokenizer(batch[0])
    logits = [
        np.asarray(MODEL.apply({"params": params}, x), np.float64)
        for x in (patches, patches * prepared.shown)
    ]
    first, second = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in logits)
    similarity = ((first - second) ** 2).mean()
    assert float(metrics["similarity"]) == pytest.approx(similarity, rel=1e-4)
    assert float(metrics["cross_entropy"]) == pytest.approx(
        numpy_loss(MODEL, params, batch), rel=1e-5
    )
    total = metrics["cross_entropy"] + metrics["mask_sup"] + 3 * metrics["similarity"]
    assert float(loss) == pytest.approx(float(total), rel=1e-6)
    assert segmenter_flops(MODEL, recipe.passes) == 2 * segmenter_flops(MODEL)


def test_the_difference_of_both_passes_has_a_gradient(params, batch):
    recipe = dataclasses.replace(RECIPE, mask_sup=0.5, similarity=1e3)
    images, labels = batch
    nothing = prepare(MODEL, recipe, images, np.full_like(labels, -1), KEY, 0)
    loss = segmentation_loss(MODEL, recipe, state_of(params))
    gradient = jax.jit(jax.grad(lambda p: loss(p, nothing, SCHEDULE)[0]))(params)
    assert np.abs(gradient["head"]["kernel"]).max() > 1e-3


def test_a_frozen_encoder_stays_bit_for_bit(params, batch):
    frozen = MODEL.clone(frozen=True)
    assert jax.tree.structure(params) == jax.tree.structure(param_shapes(frozen))
    state, metrics = one_step(frozen, params, batch)
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], params["encoder"])
    assert np.abs(state.params["head"]["kernel"] - params["head"]["kernel"]).min() > 0
    assert float(metrics["loss"]) == pytest.approx(numpy_loss(frozen, params, batch), rel=1e-5)


def test_the_linear_probe_does_not_depend_on_the_scale_of_features(params, batch):
    frozen = MODEL.clone(frozen=True)
    norm = params["encoder"]["transformer"]["norm"]
    scaled = jax.tree.map(lambda x: 3 * x, norm)
    transformer = params["encoder"]["transformer"] | {"norm": scaled}
    larger = params | {"encoder": params["encoder"] | {"transformer": transformer}}
    patches = RECIPE.tokenizer(batch[0])
    tokens = [frozen.apply({"params": p}, patches, method="tokens") for p in (params, larger)]
    np.testing.assert_allclose(tokens[0], tokens[1], atol=1e-4)
    np.testing.assert_allclose(np.asarray(tokens[0]).mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(tokens[0]).std(axis=-1), 1, atol=1e-3)


def test_layers_have_their_own_rates(params, batch):
    before, after = params, one_step(MODEL, params, batch, decay=0.5)[0].params

    def moved(*path):
        a, b = before, after
        for name in path:
            a, b = a[name], b[name]
        return float(np.abs(np.asarray(b - a)).max())

    # Adam's first step is the learning rate itself, in each direction
    assert moved("head", "bias") == pytest.approx(1e-2, rel=0.02)
    assert moved("encoder", "patch_embedding", "projection", "bias") == pytest.approx(
        1e-2 * 0.5**3, rel=0.02
    )


def test_raw_pixels_have_no_encoder(batch):
    raw = MODEL.clone(raw_pixels=True)
    params = init_params(raw, KEY)
    assert set(params) == {"head"} and params["head"]["kernel"].shape == (16, 3)
    state, metrics = one_step(raw, params, batch)
    assert float(metrics["loss"]) == pytest.approx(numpy_loss(raw, params, batch), rel=1e-5)
    assert np.abs(state.params["head"]["kernel"] - params["head"]["kernel"]).min() > 0


def test_logits_lie_on_the_grid_in_raster_order(batch):
    raw = MODEL.clone(raw_pixels=True)
    images = np.zeros((1, 16, 16, 1), np.uint8)
    images[0, 4:8, 12:16] = 255  # the patch in row 1, column 3
    params = {"head": {"kernel": jnp.ones((16, 3)), "bias": jnp.zeros(3)}}
    logits = raw.apply({"params": params}, RECIPE.tokenizer(images))
    assert logits.shape == (1, 4, 4, 3)
    assert np.argwhere(np.asarray(logits[0, ..., 0]) > 0).tolist() == [[1, 3]]


@pytest.mark.parametrize("size", [(16, 12), (7, 4), (4, 3)])
def test_device_and_host_enlarge_alike(size):
    logits = np.random.default_rng(0).normal(size=(1, 4, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(
        enlarge(logits[0], size), enlarge_logits(jnp.asarray(logits), size)[0], atol=1e-5
    )


def test_enlarging_is_linear_between_centres():
    logits = np.array([0.0, 4.0], np.float32).reshape(1, 2, 1)
    found = enlarge(logits, (2, 8))[0, :, 0]
    np.testing.assert_allclose(found, [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4])


def test_rates_that_fall_linearly():
    """MMSegmentation: the warm-up multiplies a decay that counts from the first step."""
    assert warmup_linear(0.0, 1.0, 0.0, 2.0, 10.0) == 0
    assert warmup_linear(1.0, 1.0, 0.0, 2.0, 10.0) == pytest.approx(0.45)
    assert warmup_linear(5.0, 1.0, 0.0, 2.0, 10.0) == pytest.approx(0.5)
    assert warmup_linear(10.0, 1.0, 0.2, 0.0, 10.0) == pytest.approx(0.2)
    config = defaults("segment")
    config.init_from = "runs/x"
    config.optimizer.update(epochs=10, batch_size=4, warmup_epochs=2.0, decay="linear")
    timetable = SegmentTimetable(freeze(config), 8)
    assert timetable.steps == 20
    assert float(timetable.at(10).learning_rate) == pytest.approx(0.5e-4)
    config.optimizer.decay = "cosine"
    cosine = SegmentTimetable(freeze(config), 8)
    assert float(cosine.at(4).learning_rate) == pytest.approx(1e-4)
    assert float(cosine.at(12).learning_rate) == pytest.approx(0.5e-4)


def test_operations():
    forward = 2 * 16 * 16 * 16 + transformer_flops(17, 16, 2)
    head = 2 * 16 * 16 * 3
    assert segmenter_flops(MODEL) == 3 * (forward + head)
    assert segmenter_flops(MODEL.clone(frozen=True)) == forward + 3 * head
