"""Scores of semantic segmentation from one exact confusion matrix of all pixels of a split."""

import dataclasses

import jax
import numpy as np
from jax.experimental import multihost_utils

from hpm_jax.data.records import DataError


def count_pixels(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels by true class (rows) and predicted class (columns): int64 `[classes, classes]`.

    Args:
        truth: class indices of any shape; pixels with a negative one are left out.
        predicted: class indices of the same shape.
    """
    known = truth >= 0
    place = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(place, minlength=classes * classes).reshape(classes, classes)


def sum_over_processes(matrix: np.ndarray) -> np.ndarray:
    """Adds the int64 matrices of all processes of a run, exactly; each gets the sum."""
    if jax.process_count() == 1:
        return matrix
    # as bytes: arrays of jax have 32 bits
    parts = multihost_utils.process_allgather(matrix.astype("<i8").reshape(-1).view(np.uint8))
    whole = np.ascontiguousarray(parts).reshape(jax.process_count(), -1).view("<i8")
    return whole.sum(axis=0).reshape(matrix.shape)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix; NaN for a class that they do not define."""

    iou: np.ndarray  # [classes]: intersection over union; NaN where truth and prediction lack it
    accuracy: np.ndarray  # [classes]: share of its pixels that are right; NaN where truth lacks it
    share: np.ndarray  # [classes]: share of the labelled pixels
    pixel_accuracy: float

    @property
    def miou(self) -> float:
        """The mean over classes that occur in truth or prediction, as in MMSegmentation."""
        return float(np.nanmean(self.iou))

    @property
    def mean_class_accuracy(self) -> float:
        """The mean over classes that occur in the truth."""
        return float(np.nanmean(self.accuracy))

    def numbers(self) -> dict[str, float]:
        """Returns the means by name."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
        }


def scores_of(matrix: np.ndarray) -> Scores:
    """Computes the scores of a confusion matrix `[classes, classes]`, rows are true classes.

    Raises:
        DataError: if no pixel has been counted.
    """
    total = matrix.sum()
    if not total:
        raise DataError(
            "no pixel of the test split has a class: all are config.data.ignore_index, so there is "
            "nothing to score"
        )
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = true + predicted - right
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = right / union, right / true
    return Scores(iou, accuracy, true / total, float(right.sum() / total))
