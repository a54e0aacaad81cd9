"""Logistic regression and kNN on standardised features: the measures for comparing methods.

kNN on raw features depends more on their mean than on their content (Marks et al. 2024,
2407.12210); standardised by the bank, [cls, mean] separates pre-training from random weights and
from raw pixels. Reports, runs and comparisons share these functions, so their numbers compare.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.evaluation.checks import check_finite_features
from hpm_jax.evaluation.knn import nearest, vote
from hpm_jax.evaluation.logistic import LinearClassifier, fit, logistic_accuracy, standardised
from hpm_jax.tokens import unit_pixels

ITERATIONS = 200  # of L-BFGS, at most
TEMPERATURE = 0.07  # default temperature of kNN's votes
SIDE = 32  # pixels: larger raw images are reduced to means over blocks
AT_ONCE = 4096  # images converted to float32 at a time
PENALTIES = (1e-1, 1e-2, 1e-3)
FEW_ITERATIONS = 60  # of raw pixels, which are thousands of values


class Told(NamedTuple):
    """Which queries are classified correctly, `[Q]` bool."""

    logistic: np.ndarray
    knn: np.ndarray

    def accuracies(self) -> dict[str, float]:
        """Returns the accuracies by name."""
        return {name: float(bits.mean()) for name, bits in self._asdict().items()}


def tell(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    penalty: float,
    neighbors: int,
    temperature: float = TEMPERATURE,
) -> Told:
    """Computes both measures for features `[N, D]` and `[Q, D]`.

    Raises:
        DataError: for features that are not finite.
    """
    check_finite_features(bank, "bank")
    check_finite_features(queries, "queries")
    predicted = logistic(bank, bank_labels, queries, penalty)
    voted = knn(bank, bank_labels, queries, query_labels, neighbors, temperature)
    return Told(predicted == query_labels, voted)


def logistic(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    penalty: float,
    iterations: int = ITERATIONS,
) -> np.ndarray:
    """Returns the classes `[Q]` predicted by a logistic regression on standardised features.

    Args:
        penalty: as in `hpm_jax.evaluation.logistic.fit`; fixed rather than searched, so that no
            encoder profits from a lucky choice.
        iterations: largest number of L-BFGS iterations.
    """
    classes = int(labels.max()) + 1
    known, asked = standardised(jnp.asarray(bank), jnp.asarray(queries))
    zeros = np.zeros((bank.shape[1], classes), np.float32)  # by numpy: nothing to compile
    start = LinearClassifier(jnp.asarray(zeros), jnp.asarray(zeros[0]))
    weights = jnp.asarray(np.ones(len(bank), np.float32))
    fitted = fit(start, known, jnp.asarray(labels, jnp.int32), weights, penalty, iterations)
    return np.asarray(fitted.logits(asked).argmax(axis=1))


def knn(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    truth: np.ndarray,
    count: int,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Returns which queries `[Q]` the `count` nearest neighbours classify correctly, bool."""
    known, asked = standardised(jnp.asarray(bank), jnp.asarray(queries))
    closest, index = nearest(asked, known, min(count, len(bank)))
    votes = jnp.asarray(labels.astype(np.int32)[np.asarray(index)])
    counts, classes = (min(count, len(bank)),), int(labels.max()) + 1
    answers = jnp.asarray(truth, jnp.int32)
    predicted, _ = vote(closest, votes, answers, counts, classes, temperature)
    return np.asarray(predicted)[0] == truth


def pixel_features(images: np.ndarray) -> np.ndarray:
    """Computes `raw_pixels` of many images in parts: `[N, D]` float32."""
    shrink = jax.jit(raw_pixels)
    parts = (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))
    return np.concatenate([np.asarray(shrink(part)) for part in parts])


def raw_pixels(images: Array) -> Array:
    """Converts images `[N, H, W, C]` or clips `[N, ..., H, W, C]` to features `[N, D]` float32.

    Means over blocks reduce the sides to at most `SIDE`, and frames are averaged.
    """
    pixels = unit_pixels(images)
    if pixels.ndim > 4:
        pixels = pixels.mean(axis=tuple(range(1, pixels.ndim - 3)))
    count, height, width, channels = pixels.shape
    by = [-(-side // SIDE) for side in (height, width)]
    rows, columns = height // by[0], width // by[1]
    pixels = pixels[:, : rows * by[0], : columns * by[1]]
    pixels = pixels.reshape(count, rows, by[0], columns, by[1], channels).mean(axis=(2, 4))
    return pixels.reshape(count, -1)


def best_logistic(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns which queries raw pixels classify correctly, `[Q]` bool, and the penalty.

    This baseline chooses its own penalty on a held-out tenth of the bank, to its advantage.
    """
    found = logistic_accuracy(bank, labels, queries, truth, PENALTIES, FEW_ITERATIONS)
    predicted = logistic(bank, labels, queries, found.strength, FEW_ITERATIONS)
    return predicted == truth, found.strength
