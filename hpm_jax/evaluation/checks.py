"""Checks of features and labels before they are scored, and the validation split."""

import numpy as np
from jax import Array

from hpm_jax.data.sources import DataError, set_apart

HELD_OUT = 0.1  # fraction of the training images used for validation


def check_labelled(
    features: Array | np.ndarray, labels: Array | np.ndarray, what: str, classes: int | None = None
) -> None:
    """Raises a `DataError` for features or labels that cannot be used for training.

    Args:
        features: `[N, ...]`, all finite.
        labels: `[N]` integers from 0.
        what: name of the features in messages, such as "bank".
        classes: exclusive upper bound of labels; None for no bound.
    """
    if np.ndim(features) < 2 or np.shape(labels) != (len(features),) or not len(features):
        raise DataError(
            f"{what}: features of shape {np.shape(features)} with labels of shape "
            f"{np.shape(labels)}: expected [N, ...] and [N], N at least 1."
        )
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what}: labels are {labels.dtype}: expected integers, one an image.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        raise DataError(
            f"{what}: labels go from {low} to {high}: expected "
            f"{'0 and up' if classes is None else f'0 to {classes - 1}'}. "
            "Leave out the images without a label (-1), or number the classes from 0."
        )
    check_finite_features(features, what)


def check_finite_features(features: Array | np.ndarray, what: str) -> None:
    """Raises a `DataError` for features `[N, ...]` that are not finite.

    Args:
        what: source of the features in the message, such as "student weights of runs/x".
    """
    # a sum is finite only if all its terms are, and needs no memory
    sums = np.sum(features, axis=tuple(range(1, np.ndim(features))), dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(np.asarray(sums)))
    if len(broken):
        raise DataError(
            f"{what}: features of {len(broken)} of {len(features)} images are not finite, first of "
            f"image {broken[0]}: the encoder gives NaN or infinity, as weights do that have "
            "diverged; take an earlier checkpoint, or compute in float32"
        )


def check_bank(
    bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, query_labels: np.ndarray
) -> int:
    """Checks the bank and the queries, and returns the number of classes of both.

    A class that occurs only in queries is not an error: it is never predicted, and lowers accuracy.

    Raises:
        DataError: as `check_labelled`, and for a bank of one class or of another feature shape.
    """
    check_labelled(bank, bank_labels, "bank")
    check_labelled(queries, query_labels, "queries")
    if np.shape(bank)[1:] != np.shape(queries)[1:]:
        raise DataError(
            f"bank features of shape {np.shape(bank)[1:]}, queries of {np.shape(queries)[1:]}: "
            "expected the same encoder and the same pooling for both."
        )
    low, high = int(np.min(bank_labels)), int(np.max(bank_labels))
    if low == high:
        raise DataError(
            f"bank: all {len(bank)} labels are {low}: expected two classes or more. Take the "
            "images at random over all classes, or take more of them."
        )
    return max(high, int(np.max(query_labels))) + 1


def validation_tenth(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(examples)` at random into a training part and a tenth, at least 1, sorted."""
    rest, apart = set_apart(examples, max(1, round(HELD_OUT * examples)), seed)
    return rest.astype(np.int32), apart.astype(np.int32)
