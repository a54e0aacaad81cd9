"""COCO's average precision of boxes and masks, by pycocotools."""

import contextlib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.data.coco import Instances
from hpm_jax.detection.rasters import run_lengths
from hpm_jax.extras import import_extra

KINDS = {"box": "bbox", "mask": "segm"}
# of pycocotools' summary; "medium" and "large" begin at areas of 32 x 32 and 96 x 96 pixels
SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


class Detections(NamedTuple):
    """The k detected objects of an image, in its own pixels."""

    boxes: np.ndarray  # float [k, 4]: left, top, right, bottom
    scores: np.ndarray  # float [k]
    classes: np.ndarray  # int [k]
    masks: tuple[Any, ...] | None = None  # RLE of each object; None without masks


class Pair(NamedTuple):
    """Truth and detections of an image."""

    truth: Instances
    found: Detections
    size: tuple[int, int]  # height and width


class CocoScores(NamedTuple):
    """Average precision of one kind; NaN where there is nothing to find."""

    numbers: dict[str, float]  # by the names in `SUMMARY`
    ap: np.ndarray  # [classes]
    ap50: np.ndarray  # [classes]
    objects: np.ndarray  # int [classes]: how many there are, without crowds


def coco_scores(pairs: Sequence[Pair], classes: int, kind: str = "box") -> CocoScores:
    """Scores a split: COCO's AP over IoU 0.50 to 0.95, 100 detections an image.

    Args:
        kind: a name in `KINDS`.

    Raises:
        MissingPackage: without the extra "coco".
    """
    what = "the average precision of detections"
    library = import_extra("pycocotools.coco", "coco", what, "pycocotools")
    evaluation = import_extra("pycocotools.cocoeval", "coco", what, "pycocotools")
    masks = kind == "mask"
    truth = _document(library, pairs, classes, _annotations(pairs, masks))
    found = _document(library, pairs, classes, _results(pairs, masks))
    with contextlib.redirect_stdout(io.StringIO()):
        run = evaluation.COCOeval(truth, found, KINDS[kind])
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, -1]  # [thresholds, recalls, classes]
    labels = [one.truth.classes[~one.truth.crowds] for one in pairs]
    return CocoScores(
        {name: _known(value) for name, value in zip(SUMMARY, run.stats, strict=False)},
        _means(precision),
        _means(precision[:1]),
        np.bincount(np.concatenate([*labels, np.zeros(0, int)]), minlength=classes),
    )


def _document(library: Any, pairs: Sequence[Pair], classes: int, rows: Iterable[dict]) -> Any:
    """Returns a `COCO` object of annotations, with ids from 1."""
    document = library.COCO()
    document.dataset = {
        "images": [
            {"id": number, "height": pair.size[0], "width": pair.size[1]}
            for number, pair in enumerate(pairs, 1)
        ],
        "categories": [{"id": number, "name": str(number)} for number in range(1, classes + 1)],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        document.createIndex()
    return document


def _annotations(pairs: Sequence[Pair], masks: bool) -> Iterable[dict]:
    for number, (truth, _, size) in enumerate(pairs, 1):
        for box, label, crowd, area, mask in zip(*truth, strict=True):
            row = _row(number, box, label) | {"iscrowd": int(crowd), "area": float(area)}
            yield row | ({"segmentation": run_lengths(mask, size)} if masks else {})


def _results(pairs: Sequence[Pair], masks: bool) -> Iterable[dict]:
    for number, (_, found, _) in enumerate(pairs, 1):
        for place, box in enumerate(found.boxes):
            row = _row(number, box, found.classes[place]) | {"iscrowd": 0}
            row["score"] = float(found.scores[place])
            row["area"] = row["bbox"][2] * row["bbox"][3]
            if masks:
                assert found.masks is not None
                row["segmentation"] = found.masks[place]
                library = import_extra("pycocotools.mask", "coco", "a mask", "pycocotools")
                row["area"] = float(library.area(found.masks[place]))
            yield row


def _row(image: int, box: np.ndarray, label: int) -> dict[str, Any]:
    left, top, right, bottom = map(float, box)
    return {
        "image_id": image,
        "category_id": int(label) + 1,
        "bbox": [left, top, right - left, bottom - top],
    }


def _known(value: float) -> float:
    """pycocotools has -1 for what is undefined."""
    return float(value) if value >= 0 else math.nan


def _means(precision: np.ndarray) -> np.ndarray:
    """The mean precision of each class of `[thresholds, recalls, classes]`."""
    values = [one[one >= 0] for one in np.moveaxis(precision, -1, 0)]
    return np.array([one.mean() if one.size else math.nan for one in values])
