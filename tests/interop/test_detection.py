"""The operators of detection against torchvision's, on random and on degenerate input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.detection import anchors, boxes, losses, masks, matching
from hpm_jax.detection.roi_align import levels_of
from hpm_jax.detection.roi_align import roi_align as eager_roi_align
from hpm_jax.detection.suppression import suppress as eager_suppress

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torchvision.extension import _has_ops  # noqa: E402
from torchvision.models.detection import _utils  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.roi_heads import paste_masks_in_image  # noqa: E402
from torchvision.ops.poolers import LevelMapper  # noqa: E402
from torchvision.ops.roi_align import _roi_align  # noqa: E402

# compiled: an operation at a time takes longer to compile than all of them together
suppress = jax.jit(eager_suppress, static_argnames=("threshold", "count"))
cut = jax.jit(masks.mask_targets, static_argnums=3)
roi_align = jax.jit(eager_roi_align, static_argnums=(4, 5))

DEGENERATE = np.array(
    [
        [5, 5, 5, 5],  # a point
        [3, 4, 3, 9],  # a line
        [-20, -20, -10, -10],  # outside an image
        [90, 80, 200, 300],  # partly outside
        [10, 10, 30, 30],
        [10, 10, 30, 30],  # the same again
        [0, 0, 64, 48],  # the whole image
    ],
    np.float32,
)


def random_boxes(seed, count, size=64):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, size, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.5, 30, (count, 2))], 1).astype(np.float32)


BOXES = {"random": random_boxes(0, 40), "degenerate": DEGENERATE}


def tensor(array):
    return torch.from_numpy(np.array(array))


def pooled(feature, some, size, scale, samples):
    """torchvision's RoIAlign in Python, not compiled: `[R, size, size, C]` of `[H, W, C]`.

    Its kernels give 0 more than a pixel outside the map, where the Python version repeats the
    edge: each sample is read as a bin of its own, so that this rule can be applied to it.
    """
    planes = feature if isinstance(feature, torch.Tensor) else tensor(feature)
    rois = torch.cat([torch.zeros(len(some), 1), tensor(some)], dim=1)
    count = size * samples
    eager = _roi_align.__wrapped__
    each = eager(planes.permute(2, 0, 1)[None], rois, scale, count, count, 1, True)
    steps = (np.arange(count) + 0.5) / count
    seen = []
    for axis, length in ((1, planes.shape[0]), (0, planes.shape[1])):
        first, last = some[:, axis, None] * scale - 0.5, some[:, axis + 2, None] * scale - 0.5
        place = first + steps * (last - first)
        seen.append((place >= -1) & (place <= length))
    inside = tensor(seen[0][:, None, :, None] & seen[1][:, None, None, :])
    bins = (each * inside).reshape(len(some), -1, size, samples, size, samples)
    return bins.mean(dim=(3, 5)).permute(0, 2, 3, 1)


def greedy(some, scores, classes, threshold):
    """torchvision's suppression; where its operators are not built, that algorithm in a loop."""
    if _has_ops():
        return torchvision.ops.batched_nms(
            tensor(some), tensor(scores), tensor(classes), threshold
        ).numpy()
    shared = np.nan_to_num(torchvision.ops.box_iou(tensor(some), tensor(some)).numpy())
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        same = [one for one in kept if classes[one] == classes[index]]
        if not (shared[same, index] > threshold).any():
            kept.append(int(index))
    return np.array(kept)


@pytest.mark.parametrize("name", BOXES)
def test_overlaps(name):
    one, other = BOXES[name], np.concatenate([random_boxes(1, 20), DEGENERATE])
    expected = torchvision.ops.box_iou(tensor(one), tensor(other)).numpy()
    np.testing.assert_allclose(boxes.overlap(one, other), np.nan_to_num(expected), atol=1e-6)
    np.testing.assert_allclose(boxes.area(one), torchvision.ops.box_area(tensor(one)), rtol=1e-6)


@pytest.mark.parametrize("name", BOXES)
def test_clipping_to_the_image(name):
    expected = torchvision.ops.clip_boxes_to_image(tensor(BOXES[name]), (48, 64))
    np.testing.assert_array_equal(boxes.clip(BOXES[name], np.array([48, 64])), expected)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_coding(weights):
    coder = _utils.BoxCoder(weights)
    objects, proposals = random_boxes(2, 30), random_boxes(3, 30)
    expected = coder.encode_single(tensor(objects), tensor(proposals)).numpy()
    found = boxes.encode(objects, proposals, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(boxes.decode(found, proposals, weights), objects, atol=1e-3)
    wild = np.random.default_rng(4).normal(size=(30, 4)).astype(np.float32) * 40  # sides clipped
    expected = coder.decode_single(tensor(wild), tensor(proposals)).numpy()
    np.testing.assert_allclose(boxes.decode(wild, proposals, weights), expected, rtol=1e-4)


def test_anchors():
    sides, strides, grids = (16, 40), (4, 8), ((5, 7), (3, 4))
    generator = AnchorGenerator(tuple((side,) for side in sides), (anchors.RATIOS,) * 2)
    found = [anchors.level_anchors(*level) for level in zip(grids, strides, sides, strict=True)]
    # torchvision rounds the shapes to pixels, ViTDet does not
    rounded = [np.round(anchors.shapes_of(side)) for side in sides]
    for ours, theirs in zip(rounded, generator.cell_anchors, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    generator.cell_anchors = [tensor(anchors.shapes_of(side)) for side in sides]
    steps = [[torch.tensor(stride), torch.tensor(stride)] for stride in strides]
    for ours, theirs in zip(found, generator.grid_anchors(grids, steps), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("objects", ["random", "degenerate"])
def test_matching(objects, low_quality):
    """Padding is no object; torchvision is given the objects alone."""
    some = BOXES[objects][:12]
    proposals = np.concatenate([random_boxes(5, 200), some])
    overlaps = np.asarray(boxes.overlap(some, proposals))
    seen = overlaps.max(axis=1) > 0  # torchvision matches an object without overlap with all
    overlaps = overlaps[seen]
    matcher = _utils.Matcher(0.5, 0.3, allow_low_quality_matches=low_quality)
    expected = matcher(tensor(overlaps)).numpy()
    padded = np.concatenate([overlaps, np.ones((3, len(proposals)), np.float32)])
    valid = np.arange(len(padded)) < len(overlaps)
    found = matching.match(padded, valid, 0.3, 0.7 - 0.2, low_quality)
    np.testing.assert_array_equal(np.asarray(found.labels) == matching.POSITIVE, expected >= 0)
    np.testing.assert_array_equal(np.asarray(found.labels) == matching.NEGATIVE, expected == -1)
    np.testing.assert_array_equal(np.asarray(found.labels) == matching.IGNORED, expected == -2)
    positive = expected >= 0
    np.testing.assert_array_equal(np.asarray(found.objects)[positive], expected[positive])


@pytest.mark.parametrize("positives", [0, 3, 30, 100])
def test_sampling(positives):
    """As many positive and negative boxes as torchvision's sampler takes, all different."""
    labels = np.full(300, matching.NEGATIVE)
    labels[:positives], labels[280:] = matching.POSITIVE, matching.IGNORED
    labels = np.random.default_rng(0).permutation(labels)
    sampler = _utils.BalancedPositiveNegativeSampler(64, 0.25)
    chosen = [int(mask[0].sum()) for mask in sampler([tensor(labels)])]
    found = matching.sample(jax.random.key(0), labels, 64, 0.25)
    counts = [int((found.labels == kind).sum()) for kind in (1, 0)]
    assert counts == chosen and len(np.unique(found.indices)) == 64
    np.testing.assert_array_equal(labels[found.indices], found.labels)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("many", [1, 5])
def test_suppression(threshold, many):
    some = np.concatenate([random_boxes(6, 150), DEGENERATE])
    rng = np.random.default_rng(7)
    scores = rng.permutation(len(some)).astype(np.float32)
    classes = rng.integers(0, many, len(some))
    expected = greedy(some, scores, classes, threshold)
    for count in (10, len(some), 400):
        kept = suppress(some, scores, threshold=threshold, count=count, classes=classes)
        assert kept.indices.shape == (count,)
        np.testing.assert_array_equal(np.asarray(kept.indices)[kept.valid], expected[:count])


def test_suppression_of_identical_boxes_with_equal_scores():
    some = np.repeat(DEGENERATE[4:5], 6, axis=0)
    scores = np.ones(6, np.float32)
    expected = greedy(some, scores, np.zeros(6, int), 0.5)
    kept = suppress(some, scores, threshold=0.5, count=6)
    np.testing.assert_array_equal(np.asarray(kept.indices)[kept.valid], expected)


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize(("size", "samples"), [(7, 2), (3, 1), (14, 3)])
def test_roi_align(name, size, samples):
    feature = np.random.default_rng(8).normal(size=(12, 16, 3)).astype(np.float32)
    some = BOXES[name]
    expected = pooled(feature, some, size, 0.25, samples)
    places = jnp.zeros(len(some), jnp.int32)
    found = roi_align([jnp.asarray(feature)], some, places, [0.25], size, samples)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_roi_align_over_levels_and_its_gradient():
    rng = np.random.default_rng(9)
    strides = (4, 8, 16)
    maps = [rng.normal(size=(64 // s, 96 // s, 2)).astype(np.float32) for s in strides]
    some = np.concatenate([random_boxes(10, 20), random_boxes(11, 20) * 12]).astype(np.float32)
    places = levels_of(some, strides)
    expected = LevelMapper(2, 4)([tensor(some)])
    np.testing.assert_array_equal(places, expected)
    assert len(np.unique(places)) == 3

    def ours(maps):
        return roi_align(maps, some, places, [1 / s for s in strides], 3)

    inputs = [tensor(one).requires_grad_() for one in maps]
    theirs = torch.zeros(len(some), 3, 3, 2)
    for level, stride in enumerate(strides):
        mine = np.flatnonzero(np.asarray(places) == level)
        theirs[mine] = pooled(inputs[level], some[mine], 3, 1 / stride, 2)
    found = ours(maps)
    np.testing.assert_allclose(found, theirs.detach(), atol=2e-5)
    (theirs**2).sum().backward()
    gradients = jax.grad(lambda maps: jnp.sum(ours(maps) ** 2))([jnp.asarray(m) for m in maps])
    for one, other in zip(gradients, inputs, strict=True):
        np.testing.assert_allclose(one, other.grad, atol=2e-4)


def test_losses():
    rng = np.random.default_rng(12)
    functional = torch.nn.functional
    logits = (rng.normal(size=24) * 50).astype(np.float32)
    positive = rng.random(24) < 0.3
    everywhere = np.ones(24, bool)
    expected = functional.binary_cross_entropy_with_logits(
        tensor(logits), tensor(positive.astype(np.float32))
    )
    found = losses.objectness_loss(logits, positive, everywhere)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    deltas, targets = rng.normal(size=(2, 24, 4)).astype(np.float32)
    for beta in (0.0, 0.1, 1.0):
        total = functional.smooth_l1_loss(
            tensor(deltas[positive]), tensor(targets[positive]), beta=beta, reduction="sum"
        )
        found = losses.box_loss(deltas, targets, positive, beta)
        assert float(found) == pytest.approx(float(total) / 24, rel=1e-5)
    scores, classes = rng.normal(size=(24, 4)).astype(np.float32), rng.integers(-1, 4, 24)
    expected = functional.cross_entropy(tensor(scores), tensor(classes), ignore_index=-1)
    found = losses.class_loss(scores, classes)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    pixels, truth = rng.normal(size=(24, 5, 5)).astype(np.float32), rng.random((24, 5, 5)) < 0.5
    expected = functional.binary_cross_entropy_with_logits(
        tensor(pixels[positive]), tensor(truth[positive].astype(np.float32))
    )
    found = losses.mask_loss(pixels, truth, positive)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_targets_of_masks():
    """An object's mask over its box, cut to proposals as torchvision cuts the mask of an image."""
    rng = np.random.default_rng(13)
    whole = np.zeros((1, 64, 64), np.float32)
    whole[0, 8:40, 16:48] = rng.random((8, 8)).repeat(4, 0).repeat(4, 1) < 0.6
    proposals = np.array([[16, 8, 48, 40], [10, 4, 40, 44], [30, 30, 60, 60]], np.float32)
    objects = np.repeat(np.array([[16, 8, 48, 40]], np.float32), 3, axis=0)
    expected = pooled(whole[0, ..., None], proposals, 14, 1.0, 2)[..., 0].numpy()
    given = np.repeat(whole[:, 8:40, 16:48], 3, axis=0).astype(np.uint8)
    found = np.asarray(cut(given, objects, proposals, 14))
    near = np.abs(expected - 0.5) < 1e-4
    assert near.mean() < 0.1
    np.testing.assert_array_equal(found[~near], (expected >= 0.5)[~near])


def test_pasting_is_grid_sampling():
    probabilities = np.random.default_rng(14).random((7, 7)).astype(np.float32)
    for box in ([3.3, 4.7, 29.1, 20.2], [-8, -3, 12, 60], [10, 10, 10.4, 10.4], [40, 5, 50, 9]):
        left, top, right, bottom = box
        rows = (np.arange(24) + 0.5 - top) / (bottom - top) * 2 - 1
        columns = (np.arange(32) + 0.5 - left) / (right - left) * 2 - 1
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float32)
        sampled = torch.nn.functional.grid_sample(
            tensor(probabilities)[None, None], tensor(grid)[None], align_corners=False
        )[0, 0].numpy()
        inside = (np.abs(grid) <= 1).all(axis=-1)
        clear = np.abs(sampled - 0.5) > 1e-4
        found = masks.paste(probabilities, np.array(box), (24, 32))
        np.testing.assert_array_equal((found == ((sampled >= 0.5) & inside))[clear], True)


def test_pasting_nearly_as_torchvision():
    """torchvision rounds boxes to whole pixels first, so edges differ by a pixel."""
    inside = np.zeros((28, 28), np.float32)
    inside[4:24, 6:20] = 1
    box = np.array([10, 20, 110, 90], np.float32)
    theirs = paste_masks_in_image(tensor(inside)[None, None], tensor(box)[None], (100, 128))
    theirs = theirs[0, 0].numpy() >= 0.5
    ours = masks.paste(inside, box, (100, 128))
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95
