"""Probes of single patches for segmentation: logistic regression and kNN on frozen tokens.

Nothing is trained but a classifier of patches, as in the frozen evaluation of CAPI (Darcet et al.
2025, 2502.08769). Features are standardised by the bank, as everywhere in this package.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.data.segmented import IGNORED
from hpm_jax.evaluation.checks import check_finite_features, validation_tenth
from hpm_jax.evaluation.knn import nearest
from hpm_jax.evaluation.logistic import LinearClassifier, accuracy, fit
from hpm_jax.evaluation.segmenting import Logits

PURE = 0.5  # of a patch's pixels that its class must have


class PatchBank(NamedTuple):
    """Labelled patches of the training images."""

    features: np.ndarray  # [N, D] float32
    labels: np.ndarray  # [N] int32


class Standard(NamedTuple):
    """Mean and reciprocal deviation of the features of a bank, `[D]` each."""

    mean: Array
    scale: Array  # 0 for a constant feature

    def __call__(self, features: Array) -> Array:
        return (features - self.mean) * self.scale


def patch_labels(label_map: np.ndarray, patch_size: int, classes: int) -> np.ndarray:
    """Returns the class that half the pixels of each patch have, or `IGNORED`: `[h, w]` int32.

    Args:
        label_map: class indices `[H, W]` of a window, negative where a pixel is left out.
    """
    height, width = (side // patch_size for side in label_map.shape)
    split = label_map.reshape(height, patch_size, width, patch_size).transpose(0, 2, 1, 3)
    patches = split.reshape(height * width, -1).astype(np.int64)
    known = patches >= 0
    place = np.arange(height * width)[:, None] * classes + patches
    counts = np.bincount(place[known], minlength=height * width * classes)
    counts = counts.reshape(height, width, classes)
    pure = counts.max(axis=-1) >= PURE * patch_size**2
    return np.where(pure, counts.argmax(axis=-1), IGNORED).astype(np.int32)


def standard_of(bank: PatchBank) -> Standard:
    """Returns mean and scale of a bank's features.

    Raises:
        DataError: for features that are not finite.
    """
    check_finite_features(bank.features, "the bank of patches")
    mean, deviation = bank.features.mean(axis=0), bank.features.std(axis=0)
    constant = deviation <= 1e-5 * np.abs(mean)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    return Standard(jnp.asarray(mean), jnp.asarray(scale, jnp.float32))


def fit_logistic(
    bank: PatchBank, classes: int, strengths: Sequence[float], iterations: int
) -> tuple[LinearClassifier, float]:
    """Fits a logistic regression of standardised features, and returns it with its penalty.

    The penalty is chosen on a held-out tenth of the patches, from strong to weak; then the
    regression is fitted to all.
    """
    features = standard_of(bank)(jnp.asarray(bank.features))
    labels = jnp.asarray(bank.labels, jnp.int32)
    _, held_out = validation_tenth(len(labels), 0)
    everyone = jnp.ones(len(labels))
    rest = everyone.at[held_out].set(0.0)
    classifier = LinearClassifier(jnp.zeros((features.shape[1], classes)), jnp.zeros(classes))
    fits, accuracies = {}, {}
    for strength in sorted(strengths, reverse=True):
        classifier = fit(classifier, features, labels, rest, strength, iterations)
        fits[strength] = classifier
        accuracies[strength] = accuracy(classifier, features[held_out], labels[held_out])
    best = max(accuracies, key=accuracies.__getitem__)
    return fit(fits[best], features, labels, everyone, best, iterations), best


def logistic_logits(tokens: Callable[[Any, Any], Array], grid: tuple[int, int]) -> Logits:
    """Builds `((encoder, standard, classifier), images) -> logits [B, h, w, classes]`.

    Args:
        tokens: `(parameters, images) -> [B, L, D]`.
    """

    def logits(params, images):
        encoder, standard, classifier = params
        found = classifier.logits(standard(tokens(encoder, images)))
        return found.reshape(len(images), *grid, -1)

    return logits


def knn_votes(
    tokens: Callable[[Any, Any], Array],
    grid: tuple[int, int],
    classes: int,
    neighbors: int,
    temperature: float,
) -> Logits:
    """Builds `((encoder, standard, features, labels), images) -> votes [B, h, w, classes]`.

    Each of the nearest patches of the bank votes with `exp(cosine / temperature)`.
    """

    def votes(params, images):
        encoder, standard, features, labels = params
        found = standard(tokens(encoder, images))
        closest, index = nearest(found.reshape(-1, found.shape[-1]), features, neighbors)
        weights = jax.nn.softmax(closest / temperature, axis=-1)
        shares = jnp.sum(weights[..., None] * jax.nn.one_hot(labels[index], classes), axis=1)
        return shares.reshape(len(images), *grid, classes)

    return votes
