"""Average precision: perfect and wrong detections, crowds, classes without objects."""

import math
import sys

import numpy as np
import pytest

from hpm_jax.data.coco import Instances
from hpm_jax.detection.rasters import run_lengths
from hpm_jax.evaluation.coco_scores import Detections, Pair, coco_scores
from hpm_jax.extras import MissingPackage

SIZE = (100, 120)
BOXES = np.array([[10, 10, 50, 60], [60, 20, 100, 90], [5, 70, 25, 95]], np.float32)


def square(box):
    left, top, right, bottom = map(float, box)
    return [[left, top, right, top, right, bottom, left, bottom]]


def truth(classes, crowds=None, boxes=BOXES):
    crowds = np.zeros(len(boxes), bool) if crowds is None else np.array(crowds)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Instances(boxes, np.array(classes), crowds, areas, tuple(map(square, boxes)))


def found(boxes, scores, classes):
    masks = tuple(run_lengths(square(box), SIZE) for box in boxes)
    return Detections(np.array(boxes), np.array(scores), np.array(classes), masks)


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("pycocotools")


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_perfect_detections(kind):
    pair = Pair(truth([0, 1, 1]), found(BOXES, [0.9, 0.8, 0.7], [0, 1, 1]), SIZE)
    scores = coco_scores([pair, pair], 3, kind)
    assert scores.numbers["ap"] == scores.numbers["ap50"] == pytest.approx(1)
    np.testing.assert_allclose(scores.ap, [1, 1, math.nan])
    assert scores.objects.tolist() == [2, 4, 0]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_a_detection_of_iou_three_quarters(kind):
    """It is right at the thresholds 0.50 to 0.75: 6 of 10."""
    moved = np.array([[10, 10, 50, 48]])  # 38 of 50 rows
    pair = Pair(truth([0], boxes=BOXES[:1]), found(moved, [0.9], [0]), SIZE)
    numbers = coco_scores([pair], 1, kind).numbers
    assert numbers["ap50"] == pytest.approx(1) and numbers["ap"] == pytest.approx(0.6)
    assert numbers["ap_medium"] == pytest.approx(0.6) and math.isnan(numbers["ap_large"])


def test_precision_and_recall_by_hand():
    """The better one of two detections is wrong, and one of two objects is missed."""
    wrong = [[70, 70, 110, 95], BOXES[0]]
    pair = Pair(truth([0, 0], boxes=BOXES[:2]), found(wrong, [0.9, 0.8], [0, 0]), SIZE)
    # precision 1/2 at the 51 recalls 0, 0.01, ..., 0.5 of 101
    assert coco_scores([pair], 1).numbers["ap50"] == pytest.approx(51 / 101 / 2)
    other = Pair(pair.truth, found(BOXES[:1], [0.9], [1]), SIZE)
    assert coco_scores([other], 2).numbers["ap"] == 0


def test_detections_in_crowds_do_not_count():
    crowd = truth([0, 0], [False, True], boxes=BOXES[:2])
    inside = [BOXES[0], [65, 30, 90, 60]]
    scores = coco_scores([Pair(crowd, found(inside, [0.8, 0.9], [0, 0]), SIZE)], 1)
    assert scores.numbers["ap"] == pytest.approx(1) and scores.objects.tolist() == [1]


def test_nothing_found_and_nothing_to_find():
    nothing = found(np.zeros((0, 4)), [], np.zeros(0, int))
    assert coco_scores([Pair(truth([0, 0, 0]), nothing, SIZE)], 1, "mask").numbers["ap"] == 0
    empty = Pair(truth(np.zeros(0, int), boxes=BOXES[:0]), nothing, SIZE)
    assert math.isnan(coco_scores([empty], 1).numbers["ap"])


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MissingPackage, match='needs the extra "coco": pip install pycocotools'):
        coco_scores([], 1)
