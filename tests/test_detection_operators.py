"""The operators of detection: hand-computed cases, degenerate input, fixed shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.detection import boxes, masks
from hpm_jax.detection.anchors import level_anchors
from hpm_jax.detection.losses import class_loss, mask_loss, objectness_loss
from hpm_jax.detection.matching import IGNORED, NEGATIVE, POSITIVE, match, sample
from hpm_jax.detection.roi_align import levels_of
from hpm_jax.detection.roi_align import roi_align as eager_roi_align
from hpm_jax.detection.suppression import suppress as eager_suppress

# compiled: an operation at a time takes longer to compile than all of them together
suppress = jax.jit(eager_suppress, static_argnames=("threshold", "count"))
cut = jax.jit(masks.mask_targets, static_argnums=3)
roi_align = jax.jit(eager_roi_align, static_argnums=(4, 5))

EMPTY = np.zeros((3, 4), np.float32)
KEY = jax.random.key(0)


def test_overlaps_by_hand():
    one = np.array([[0, 0, 4, 4], [2, 2, 2, 6]], np.float32)
    other = np.array([[2, 0, 6, 4], [0, 0, 4, 4], [4, 0, 8, 4]], np.float32)
    np.testing.assert_allclose(boxes.overlap(one, other), [[8 / 24, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(boxes.overlap(EMPTY, EMPTY), np.zeros((3, 3)))


def test_coding_of_empty_boxes_is_finite():
    real = np.array([[1, 2, 5, 9]] * 3, np.float32)
    for one, other in ((EMPTY, real), (real, EMPTY), (EMPTY, EMPTY)):
        assert np.isfinite(boxes.encode(one, other)).all()
        gradient = jax.grad(lambda x, other=other: boxes.encode(x, other).sum())(jnp.asarray(one))
        assert np.isfinite(gradient).all()
    assert np.isfinite(boxes.decode(np.full((3, 4), 1e4, np.float32), real)).all()


def test_anchors_by_hand():
    found = level_anchors((2, 3), 8, 32, ratios=(1.0,))
    assert found.shape == (6, 4) and found.dtype == np.float32
    assert found[0].tolist() == [-16, -16, 16, 16]
    assert found[2].tolist() == [0, -16, 32, 16] and found[3].tolist() == [-16, -8, 16, 24]
    ratios = level_anchors((1, 1), 4, 16)
    sides = ratios[:, 2:] - ratios[:, :2]
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(boxes.area(ratios), 256, rtol=1e-5)


def test_matching_without_objects_is_all_negative():
    found = match(np.ones((2, 5), np.float32), np.zeros(2, bool), 0.3, 0.7, low_quality=True)
    assert (np.asarray(found.labels) == NEGATIVE).all() and (np.asarray(found.objects) == 0).all()


def test_an_object_gets_its_best_box_and_one_without_overlap_none():
    overlaps = np.array([[0.1, 0.2, 0.0, 0.8], [0.0, 0.0, 0.0, 0.0]], np.float32)
    overlaps = np.concatenate([overlaps, [[0.05, 0.25, 0.4, 0.0]]]).astype(np.float32)
    found = match(overlaps, np.ones(3, bool), 0.3, 0.7, low_quality=True)
    assert found.labels.tolist() == [NEGATIVE, NEGATIVE, POSITIVE, POSITIVE]
    assert found.objects.tolist() == [0, 2, 2, 0]
    strict = match(overlaps, np.ones(3, bool), 0.3, 0.7)
    assert strict.labels.tolist() == [NEGATIVE, NEGATIVE, IGNORED, POSITIVE]


def test_samples_are_drawn_by_their_key():
    labels = np.repeat([POSITIVE, NEGATIVE, IGNORED], [40, 400, 10])
    one, same, other = (
        np.sort(sample(jax.random.key(seed), labels, 64, 0.5).indices) for seed in (0, 0, 1)
    )
    assert (one == same).all() and (one != other).any()
    counted = np.zeros(450)
    for seed in range(60):
        counted[sample(jax.random.key(seed), labels, 64, 0.25).indices] += 1
    assert counted[440:].sum() == 0
    assert counted[:40].min() > 10 and counted[40:440].max() < 20  # 24 and 7.2 are expected


def test_samples_of_few_boxes_leave_places_empty():
    found = sample(KEY, np.array([IGNORED, POSITIVE, IGNORED, NEGATIVE]), 4, 0.5)
    assert found.labels.tolist() == [POSITIVE, NEGATIVE, IGNORED, IGNORED]
    assert found.indices.tolist()[:2] == [1, 3]


def test_a_chain_of_overlaps_is_suppressed_greedily():
    """The first box removes the second, which would have removed the third."""
    chain = np.array([[x, 0, x + 10, 10] for x in range(0, 24, 4)], np.float32)
    kept = suppress(chain, np.arange(6, 0, -1, dtype=np.float32), threshold=0.4, count=6)
    assert np.asarray(kept.indices)[kept.valid].tolist() == [0, 2, 4]


def test_suppression_ignores_what_takes_no_part():
    same = np.array([[0, 0, 8, 8]] * 4, np.float32)
    scores = np.array([np.nan, 0.9, 0.8, -np.inf], np.float32)
    kept = suppress(same, scores, threshold=0.5, count=3)
    assert np.asarray(kept.indices)[kept.valid].tolist() == [1]
    kept = suppress(same, scores, threshold=0.5, count=3, valid=np.array([True, False, True, True]))
    assert np.asarray(kept.indices)[kept.valid].tolist() == [2]
    assert not suppress(same, scores, threshold=0.5, count=3, valid=np.zeros(4, bool)).valid.any()


def test_roi_align_reads_planes_exactly_and_edges_safely():
    row, column = np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5, indexing="ij")
    plane = jnp.asarray(np.stack([row, column], axis=-1), jnp.float32)
    box = np.array([[1, 2, 5, 6]], np.float32)
    found = np.asarray(roi_align([plane], box, jnp.zeros(1, jnp.int32), [1.0], 2))[0]
    np.testing.assert_allclose(found[..., 0], [[3, 3], [5, 5]], atol=1e-5)
    np.testing.assert_allclose(found[..., 1], [[2, 4], [2, 4]], atol=1e-5)
    outside = np.array([[-90, -90, -40, -40], [100, 3, 120, 9], [3, 3, 3, 3]], np.float32)
    far = roi_align([plane], outside, jnp.zeros(3, jnp.int32), [1.0], 2)
    assert (np.asarray(far)[:2] == 0).all() and np.isfinite(far).all()


def test_large_boxes_are_read_from_coarse_levels():
    sides = np.array([8, 112, 224, 448, 5000, 0], np.float32)
    some = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    assert levels_of(some, (4, 8, 16, 32)).tolist() == [0, 1, 2, 3, 3, 0]


def test_losses_of_nothing_are_zero():
    nothing = np.zeros(4, bool)
    pixels = np.ones((4, 3, 3), np.float32)
    assert float(objectness_loss(np.ones(4, np.float32), nothing, nothing)) == 0
    assert float(class_loss(np.ones((4, 3), np.float32), np.full(4, -1))) == 0
    assert float(mask_loss(pixels, pixels > 0, nothing)) == 0
    gradient = jax.grad(lambda x: mask_loss(x, pixels > 0, nothing))(jnp.asarray(pixels))
    assert (np.asarray(gradient) == 0).all()


def test_targets_of_masks_end_at_the_box():
    full = np.ones((1, 8, 8), np.uint8)
    target = cut(full, np.array([[4.0, 4, 12, 12]]), np.array([[0.0, 4, 8, 12]]), 4)
    np.testing.assert_array_equal(target[0], [[False, False, True, True]] * 4)
    empty = cut(full, EMPTY[:1], EMPTY[:1], 4)
    assert empty.shape == (1, 4, 4)


@pytest.mark.parametrize(
    "box", [[3, 3, 3, 9], [-9, -9, -2, -2], [5, 5, 1, 1], [np.nan, 0, 4, 4], [40, 40, 50, 50]]
)
def test_empty_boxes_paste_nothing(box):
    assert not masks.paste(np.ones((4, 4)), np.array(box), (16, 16)).any()


def test_pasting_fills_the_box():
    pasted = masks.paste(np.ones((4, 4)), np.array([2, 3, 12, 9]), (16, 16))
    rows, columns = np.nonzero(pasted)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 8, 2, 11)
    assert pasted.sum() == 60
