"""The detector and its step: windows, pyramid, proposals, losses, samples and learning rates."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_detector import KEY, MODEL, RECIPE, SCHEDULE, small_batch, small_params

from hpm_jax.config import defaults, freeze
from hpm_jax.detection.boxes import encode
from hpm_jax.detection.proposals import BOX_WEIGHTS, Proposals, choose, propose
from hpm_jax.models.decomposed import Decomposed, with_offsets
from hpm_jax.models.encoder import Encoder
from hpm_jax.models.flops import detector_flops
from hpm_jax.models.layouts import Layout
from hpm_jax.models.pyramid import SimplePyramid
from hpm_jax.models.scaled_dot_product import attend
from hpm_jax.models.windows import WindowedEncoder, from_windows, global_indices, to_windows
from hpm_jax.step.detect_step import detection_loss, prepare
from hpm_jax.step.schedules import DetectTimetable
from hpm_jax.step.state import init_params


@pytest.fixture(scope="module")
def params():
    return small_params()


@pytest.fixture(scope="module")
def batch():
    return small_batch()


@pytest.fixture(scope="module")
def loss():
    compiled = jax.jit(detection_loss(MODEL, RECIPE))
    return lambda params, batch, key=KEY: compiled(
        params, prepare(MODEL, RECIPE, *batch, key, 0), SCHEDULE
    )


def test_windows_and_back():
    x = np.arange(2 * 5 * 7 * 3, dtype=np.float32).reshape(2, 5, 7, 3)
    windows = to_windows(jnp.asarray(x), 3)
    assert windows.shape == (2 * 2 * 3, 9, 3)
    np.testing.assert_array_equal(windows[0], x[0, :3, :3].reshape(9, 3))
    assert (np.asarray(windows[2]).reshape(3, 3, 3)[:, 1:] == 0).all()
    np.testing.assert_array_equal(from_windows(windows, 3, x.shape), x)


def test_blocks_over_the_image_are_those_of_vitdet():
    assert global_indices(12, 4) == (2, 5, 8, 11) and global_indices(24, 4) == (5, 11, 17, 23)
    assert global_indices(32, 4) == (7, 15, 23, 31) and global_indices(1, 1) == (0,)


STACK = {"depth": 2, "heads": 2}
ALONE = Layout(cls_token=False)


def test_without_windows_it_is_the_encoder_before_its_last_norm():
    patches = jax.random.normal(KEY, (2, 24, 16))
    plain = Encoder((1, 4, 6), 16, STACK, layout=ALONE, positions="learned")
    params = jax.jit(plain.init)(KEY, patches)["params"]
    outputs = jax.jit(functools.partial(plain.apply, collect=(1,), method="outputs"))
    expected = outputs({"params": params}, patches).blocks[0]
    del params["transformer"]["norm"]
    windowed = WindowedEncoder((1, 4, 6), 16, STACK, window=0, layout=ALONE)
    found = jax.jit(windowed.apply)({"params": params}, patches)
    np.testing.assert_allclose(found.reshape(2, 24, 16), expected, atol=1e-5)
    shapes = jax.eval_shape(lambda: windowed.init(KEY, patches)["params"])
    assert jax.tree.structure(shapes) == jax.tree.structure(params)


def test_decomposed_positions_by_a_plain_loop():
    """Against the sum over offsets that ViTDet's code adds to the scores of an unscaled query."""
    rows, columns, head = 3, 4, 8
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 2, rows * columns, head)).astype(np.float32)
    tokens = Decomposed(rows, columns, 5, 4)  # tables of a larger map: its middle counts
    tables = tuple(rng.normal(size=shape).astype(np.float32) for shape in tokens.shapes(head))
    scores = query @ key.swapaxes(2, 3) * head**-0.5
    for n, m in itertools.product(range(rows * columns), repeat=2):
        (y, x), (v, u) = divmod(n, columns), divmod(m, columns)
        scores[:, :, n, m] += query[:, :, n] @ tables[0][y - v + 4]
        scores[:, :, n, m] += query[:, :, n] @ tables[1][x - u + 3]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ value
    pair = with_offsets(jnp.asarray(query), jnp.asarray(key), tables, tokens)
    np.testing.assert_allclose(attend(*pair, value), expected, atol=2e-5)


@pytest.mark.parametrize("window", [0, 3, 5])
def test_relative_positions_start_at_zero_and_learn(window):
    """Windows may be larger than the image: padding has offsets as well."""
    patches = jax.random.normal(KEY, (2, 24, 16))
    plain = WindowedEncoder((1, 4, 6), 16, STACK, window, 1, layout=ALONE)
    relative = plain.clone(relative=True)
    params = jax.jit(relative.init)(KEY, patches)["params"]
    tables = params["transformer"]["blocks"]["attention"]
    sides = (max(4, window), max(6, window))
    assert tables["row_offsets"].shape == (2, 2 * sides[0] - 1, 8)
    assert tables["column_offsets"].shape == (2, 2 * sides[1] - 1, 8)
    without = jax.tree.map(lambda x: x, params)
    for side in ("row_offsets", "column_offsets"):
        del without["transformer"]["blocks"]["attention"][side]
    expected = jax.jit(plain.apply)({"params": without}, patches)

    def loss(params):
        found = relative.apply({"params": params}, patches)
        return jnp.square(found).sum(), found

    slopes, found = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    learnt = slopes["transformer"]["blocks"]["attention"]["column_offsets"]
    assert (jnp.abs(learnt).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("over_image", [0, 1])
def test_windows_are_apart_until_a_block_sees_the_image(over_image):
    patches = jax.random.normal(KEY, (1, 36, 16))
    model = WindowedEncoder((1, 6, 6), 16, STACK, 3, over_image, layout=ALONE)
    params, apply = jax.jit(model.init)(KEY, patches), jax.jit(model.apply)
    moved = patches.at[0, 0].add(1.0)  # in the first window
    before, after = (np.asarray(apply(params, x)[0]) for x in (patches, moved))
    changed = np.abs(after - before).max(axis=-1) > 1e-6
    assert changed[:3, :3].all()
    assert changed.all() == changed[3:].any() == changed[:, 3:].any() == bool(over_image)


def test_levels_have_the_strides_of_the_anchors(params):
    levels = jax.eval_shape(
        lambda p: MODEL.apply({"params": params}, p, method="levels"), jnp.zeros((2, 64, 16))
    )
    assert [x.shape for x in levels] == [(2, h, w, 8) for h, w in MODEL.shapes]
    assert MODEL.strides == (1, 2, 4, 8, 16)
    assert MODEL.clone(patch=16).strides == (4, 8, 16, 32, 64)
    regions = jax.eval_shape(
        lambda: MODEL.apply({"params": params}, levels_of_zeros(), method="find_regions")
    )
    assert [x.shape[1] for x in regions.logits] == [len(x) for x in MODEL.anchors]


def levels_of_zeros():
    return tuple(jnp.zeros((2, h, w, 8)) for h, w in MODEL.shapes)


def test_a_place_of_the_pyramid_sees_its_surroundings():
    pyramid = SimplePyramid(8)
    x = jnp.zeros((1, 8, 8, 16))
    params, apply = jax.jit(pyramid.init)(KEY, x), jax.jit(pyramid.apply)
    both = (apply(params, one) for one in (x, x.at[0, 2, 5].set(jnp.arange(16.0))))
    for scale, before, after in zip((4, 2, 1, 0.5), *both, strict=False):
        rows, columns = np.nonzero(np.abs(after - before)[0].max(axis=-1) > 1e-6)
        center = (rows.mean() + 0.5) / scale, (columns.mean() + 0.5) / scale
        assert abs(center[0] - 2.5) <= 0.51 and abs(center[1] - 5.5) <= 0.51
        assert len(rows) <= (scale + 2) ** 2 + 5


def test_proposals_are_moved_clipped_and_suppressed():
    anchors = (np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 60, 60]], np.float32),)
    logits = (jnp.array([1.0, 2.0, 0.5]),)
    deltas = (jnp.array([[0.0, 0, 0, 0], [0, 0, 0, 0], [-0.5, 0, 0, 0]]),)
    found = propose(logits, deltas, anchors, jnp.array([50.0, 45.0]), 3, 4)
    assert found.valid.tolist() == [True, True, False, False]
    np.testing.assert_allclose(found.boxes[:2], [[1, 0, 11, 10], [30, 40, 45, 50]])
    few = propose(logits, deltas, anchors, jnp.array([50.0, 45.0]), 1, 4)
    assert few.valid.tolist() == [True, False, False, False]


def test_detections_are_those_of_their_class():
    proposals = Proposals(
        jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 9.5], [20, 20, 30, 30]]), jnp.ones(3, bool)
    )
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.01, 0.04, 0.95]]))
    target = jnp.array([[2.0, 2, 8, 8]] * 3)
    moved = encode(target, proposals.boxes, BOX_WEIGHTS)
    deltas = jnp.stack([jnp.zeros((3, 4)), moved], axis=1)
    found = choose(logits, deltas, proposals, jnp.array([32.0, 32.0]), 0.05, 0.5, 6, 5)
    np.testing.assert_allclose(found.scores, [0.7, 0.3, 0, 0, 0], atol=1e-6)
    assert found.classes.tolist() == [0, 1, 0, 0, 0]
    np.testing.assert_allclose(found.boxes[:2], [[0, 0, 10, 10], [2, 2, 8, 8]], atol=1e-4)


def test_places_without_objects_have_no_influence(params, batch, loss):
    images, sizes, boxes, classes, masks = batch
    _, (metrics, _) = loss(params, batch)
    assert all(np.isfinite(float(value)) and value >= 0 for value in metrics.values())
    assert 0 < float(metrics["positive_proposals"]) <= 0.25
    others, noise = classes.copy(), masks.copy()
    others[:, 2], noise[:, 2] = 1 - others[:, 2], 1 - noise[:, 2]
    other, _ = loss(params, (images, sizes, boxes, others, noise))
    assert float(other) == float(metrics["loss"])


def test_images_without_objects_teach_the_background_alone(params, batch, loss):
    images, sizes, boxes, classes, masks = batch
    total, (metrics, _) = loss(params, (images, sizes, 0 * boxes, classes, masks))
    assert float(metrics["positive_proposals"]) == 0
    for name in ("region_boxes", "boxes", "masks"):
        assert float(metrics[f"loss_{name}"]) == 0
    # fresh heads give all anchors and classes nearly the same score
    assert float(metrics["loss_objectness"]) == pytest.approx(np.log(2), abs=0.05)
    assert float(metrics["loss_classes"]) == pytest.approx(np.log(3), abs=0.1)
    assert float(total) > 0


def test_samples_follow_their_key(params, batch, loss):
    one, same, other = (float(loss(params, batch, jax.random.key(seed))[0]) for seed in (0, 0, 1))
    assert one == same and one != other


def test_a_frozen_encoder_costs_one_pass():
    saved = detector_flops(MODEL, 10, 4) - detector_flops(MODEL.clone(frozen=True), 10, 4)
    deeper = MODEL.clone(depth=3)  # its further block has windows
    block = detector_flops(deeper, 10, 4) - detector_flops(MODEL, 10, 4)
    saved_deeper = detector_flops(deeper, 10, 4) - detector_flops(deeper.clone(frozen=True), 10, 4)
    assert saved_deeper - saved == pytest.approx(2 / 3 * block)


def test_without_masks_there_is_no_head_of_masks(batch):
    model = MODEL.clone(masks=False)
    params = jax.eval_shape(lambda: init_params(model, KEY))
    assert "mask_head" not in params and "boxes" in params
    images, sizes, boxes, classes, _ = batch
    empty = np.zeros((8, 3, 0, 0), np.uint8)
    metrics = jax.eval_shape(
        lambda params: detection_loss(model, RECIPE)(
            params, prepare(model, RECIPE, images, sizes, boxes, classes, empty, KEY, 0), SCHEDULE
        )[1][0],
        params,
    )
    assert "loss_masks" not in metrics and "loss_boxes" in metrics


def test_rates_that_fall_in_steps():
    """detectron2's schedule of ViTDet: a tenth after 8/9 of the run, a hundredth after 26/27."""
    config = defaults("detect")
    config.init_from = "runs/x"
    config.optimizer.update(epochs=27, batch_size=4, warmup_epochs=2.0)
    timetable = DetectTimetable(freeze(config), 8)
    assert timetable.steps == 54
    rates = [float(timetable.at(step).learning_rate) for step in (0, 2, 4, 47, 48, 51, 52, 53)]
    expected = [0, 0.5e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    config.optimizer.decay = "cosine"
    cosine = DetectTimetable(freeze(config), 8)
    assert float(cosine.at(4).learning_rate) == pytest.approx(1e-4)
    assert 0 < float(cosine.at(53).learning_rate) < 1e-6


def test_operations_are_those_that_the_compiler_counts():
    """The forward pass to the region proposals; the compiler also counts norms and activations."""
    model = MODEL.clone(width=64, channels=64, window=4, depth=4, unroll=4)

    def forward(params, patches):
        levels = model.apply({"params": params}, patches, method="levels")
        return model.apply({"params": params}, levels, method="find_regions")

    params = jax.eval_shape(lambda: init_params(model, KEY))
    patches = jax.ShapeDtypeStruct((1, 64, 16), jnp.float32)
    counted = jax.jit(forward).lower(params, patches).compile().cost_analysis()["flops"]
    assert detector_flops(model, 0, 0) / 3 == pytest.approx(counted, rel=0.15)
    relative = detector_flops(model.clone(relative=True), 0, 0) - detector_flops(model, 0, 0)
    assert relative == 3 * 2 * 64 * 64 * (16 + 3 * 8)  # one block over the image, three in windows
    sampled = detector_flops(model, 10, 0) - detector_flops(model, 0, 0)
    flat = 7 * 7 * 64
    assert sampled == 3 * 2 * 10 * (flat * 16 + 16 * 16 + 16 * 11)
