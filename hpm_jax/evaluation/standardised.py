"""The two measures that tell methods apart: logistic regression and kNN on standardised features.

kNN on features as they are moves with their mean more than with what they know (Marks et al. 2024,
2407.12210); standardised by the bank, [cls, mean] separates pre-training from random weights and
from raw pixels. Reports, runs and comparisons share these functions, so their numbers compare.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.evaluation.knn import nearest, vote
from hpm_jax.evaluation.logistic import LinearClassifier, fit, logistic_accuracy, standardised

ITERATIONS = 200  # of L-BFGS, at most
TEMPERATURE = 0.07  # of kNN's votes, unless another is given
SIDE = 32  # pixels: raw images are no larger, else their means over blocks stand for them
AT_ONCE = 4096  # images, so that they are never all in memory as float32
PENALTIES = (1e-1, 1e-2, 1e-3)
FEW_ITERATIONS = 60  # of raw pixels, which are thousands of values


class Told(NamedTuple):
    """Which queries are told right, `[Q]` bool."""

    logistic: np.ndarray
    knn: np.ndarray

    def accuracies(self) -> dict[str, float]:
        """The shares of them, by name."""
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
    """Both measures, of features `[N, D]` and `[Q, D]`."""
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
    """The classes `[Q]` that a logistic regression of standardised features gives queries.

    Args:
        penalty: as in `hpm_jax.evaluation.logistic.fit`; given and not searched, so that no
            encoder profits from a lucky choice.
        iterations: of L-BFGS, at most.
    """
    classes = int(labels.max()) + 1
    known, asked = standardised(jnp.asarray(bank), jnp.asarray(queries))
    start = LinearClassifier(jnp.zeros((bank.shape[1], classes)), jnp.zeros(classes))
    weights = jnp.ones(len(bank))
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
    """Which queries `[Q]` the vote of their `count` nearest neighbours tells right, bool."""
    known, asked = standardised(jnp.asarray(bank), jnp.asarray(queries))
    closest, index = nearest(asked, known, min(count, len(bank)))
    votes = jnp.asarray(labels, jnp.int32)[index]
    counts, classes = (min(count, len(bank)),), int(labels.max()) + 1
    answers = jnp.asarray(truth, jnp.int32)
    predicted, _ = vote(closest, votes, answers, counts, classes, temperature)
    return np.asarray(predicted)[0] == truth


def pixel_features(images: np.ndarray) -> np.ndarray:
    """`raw_pixels` of many images, a part at a time: `[N, D]` float32."""
    shrink = jax.jit(raw_pixels)
    parts = (images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE))
    return np.concatenate([np.asarray(shrink(part)) for part in parts])


def raw_pixels(images: Array) -> Array:
    """Images `[N, H, W, C]` or clips `[N, ..., H, W, C]`, uint8, as features `[N, D]` float32.

    Means over blocks make sides of at most `SIDE`, and frames are averaged.
    """
    pixels = images.astype(jnp.float32) / 255
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
    """Which queries raw pixels tell right, `[Q]` bool, and the penalty.

    This baseline chooses its own penalty, on a tenth of the bank that is held out: it gets the
    better of every doubt.
    """
    found = logistic_accuracy(bank, labels, queries, truth, PENALTIES, FEW_ITERATIONS)
    predicted = logistic(bank, labels, queries, found.strength, FEW_ITERATIONS)
    return predicted == truth, found.strength
