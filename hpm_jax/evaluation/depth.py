"""Depth from patches: a linear regression in closed form, and the scores of NYUv2."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpm_jax.evaluation.checks import validation_tenth

EIGEN = (45, 471, 41, 601)  # rows and columns of 480 x 640 (Eigen et al. 2014, after the Kinect)
SIZE = (480, 640)


class DepthScores(NamedTuple):
    """Scores of one image, or their means over images."""

    delta1: float  # share of pixels with max(predicted / true, true / predicted) < 1.25
    delta2: float  # < 1.25^2
    delta3: float  # < 1.25^3
    rmse: float  # root of the mean squared error, metres
    relative: float  # mean of |predicted - true| / true


def score_depth(truth: np.ndarray, predicted: np.ndarray) -> DepthScores | None:
    """Returns the scores over the valid pixels of an image; None if it has none.

    Args:
        truth: metres of any shape; 0 where there is no measurement.
        predicted: metres, above 0, of the same shape.
    """
    valid = truth > 0
    if not valid.any():
        return None
    true, found = truth[valid].astype(np.float64), predicted[valid].astype(np.float64)
    ratio = np.maximum(true / found, found / true)
    one, two, three = (float((ratio < 1.25**power).mean()) for power in (1, 2, 3))
    error = found - true
    rmse, relative = np.sqrt((error**2).mean()), (np.abs(error) / true).mean()
    return DepthScores(one, two, three, float(rmse), float(relative))


def eigen_crop(truth: np.ndarray) -> np.ndarray:
    """Returns the depth with 0 beyond Eigen's crop, for images of 480 x 640 or their multiples."""
    scale = [side / whole for side, whole in zip(truth.shape, SIZE, strict=True)]
    top, bottom, left, right = (round(edge * scale[place // 2]) for place, edge in enumerate(EIGEN))
    inside = np.zeros_like(truth)
    inside[top:bottom, left:right] = truth[top:bottom, left:right]
    return inside


def patch_depths(depth: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the mean depth of each patch, `[h, w]` float32; 0 where half its pixels are invalid.

    Args:
        depth: metres `[H, W]`, 0 where invalid.
    """
    height, width = (side // patch_size for side in depth.shape)
    split = depth.reshape(height, patch_size, width, patch_size).transpose(0, 2, 1, 3)
    patches = split.reshape(height, width, -1)
    count = (patches > 0).sum(axis=-1)
    mean = patches.sum(axis=-1) / np.maximum(count, 1)
    return np.where(2 * count >= patch_size**2, mean, 0).astype(np.float32)


class Linear(NamedTuple):
    """A linear map from features to one value."""

    kernel: np.ndarray  # [D] float32
    bias: float


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, penalties: Sequence[float]
) -> tuple[Linear, float]:
    """Fits `targets = features kernel + bias` by least squares, and returns it with its penalty.

    It minimises the mean squared error plus the penalty times the squared norm of the kernel; the
    penalty with the smallest error on a held-out tenth is used for a fit to all.

    Args:
        features: `[N, D]`, standardised.
        targets: `[N]`.
    """
    rest, apart = validation_tenth(len(targets))
    errors = {}
    for penalty, linear in _fits(features[rest], targets[rest], penalties).items():
        error = features[apart] @ linear.kernel + linear.bias - targets[apart]
        errors[penalty] = float(np.mean(error**2))
    best = min(errors, key=errors.__getitem__)
    return _fits(features, targets, (best,))[best], best


def _fits(
    features: np.ndarray, targets: np.ndarray, penalties: Sequence[float]
) -> dict[float, Linear]:
    """Solves for all penalties by one eigendecomposition of the covariance, in float64."""
    mean, bias = features.mean(axis=0, dtype=np.float64), float(targets.mean(dtype=np.float64))
    centred = features - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(targets))
    moment = vectors.T @ (centred.T @ (targets - bias) / len(targets))
    found = {}
    for penalty in penalties:
        kernel = vectors @ (moment / (np.maximum(values, 0) + penalty))
        found[penalty] = Linear(kernel.astype(np.float32), float(bias - mean @ kernel))
    return found
