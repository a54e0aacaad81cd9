"""Few-shot accuracy by ridge regression onto the classes, in closed form, as in big_vision."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from hpm_jax.config import ConfigError
from hpm_jax.data.sources import DataError
from hpm_jax.evaluation.checks import check_bank

RIDGE = 0.3  # of the mean eigenvalue


def few_shot_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 5,
    ridge: float = RIDGE,
    seed: int = 0,
) -> dict[int, tuple[float, float]]:
    """Returns the accuracy on the queries of classifiers fitted to a few bank images per class.

    Args:
        bank: features `[N, D]`, with labels `[N]` int.
        queries: features `[Q, D]`, with labels `[Q]` int.
        shots: numbers of images per class; smaller ones are prefixes of larger ones.
        draws: number of random draws of images.
        ridge: see `ridge_classifier`.

    Returns:
        For each shot count: mean accuracy and sample standard deviation over draws (0 for one).

    Raises:
        DataError: see `check_bank`; for a class with fewer images in the bank than shots.
        ConfigError: for shots or draws below 1.
    """
    classes = check_bank(bank, bank_labels, queries, query_labels)
    if min(shots) < 1 or draws < 1:
        raise ConfigError(f"shots = {tuple(shots)}, draws = {draws}: expected at least 1 each")
    bank, queries = np.asarray(bank, np.float32), np.asarray(queries, np.float32)
    accuracies: dict[int, list[float]] = {count: [] for count in shots}
    for number in range(draws):
        rng = np.random.default_rng((seed, number))
        drawn = draw(rng, np.asarray(bank_labels), classes, max(shots))
        for count in shots:
            kernel, bias = ridge_classifier(bank[drawn[:, :count]], ridge)
            predicted = np.argmax(queries @ kernel + bias, axis=1)
            accuracies[count].append(float((predicted == query_labels).mean()))
    return {
        count: (float(np.mean(values)), float(np.std(values, ddof=1)) if draws > 1 else 0.0)
        for count, values in accuracies.items()
    }


def draw(rng: np.random.Generator, labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Draws indices `[classes, count]` of `count` distinct images per class, in random order."""
    sizes = np.bincount(labels, minlength=classes)
    if sizes.min() < count:
        raise DataError(
            f"class {sizes.argmin()} has {sizes.min()} images in the bank, and {count} shots need "
            f"{count}: ask for fewer shots, or take a larger bank."
        )
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    return by_class[(np.cumsum(sizes) - sizes)[:, None] + np.arange(count)]


def ridge_classifier(examples: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Regresses one-hot classes on features: `W = (X'X + lambda I)^-1 X'Y`, both centred.

    The smaller of the primal system `[D, D]` and the dual one `[n, n]`, `n = classes * count`, is
    solved: `(X'X + lambda I)^-1 X' = X' (XX' + lambda I)^-1`. lambda is `ridge` times the mean
    eigenvalue of that system, so the classifier does not depend on the scale of the features.

    Args:
        examples: `[classes, count, D]`.

    Returns:
        kernel `[D, classes]` and bias `[classes]`, float32.
    """
    classes, count, width = examples.shape
    x = examples.reshape(-1, width).astype(np.float64)
    mean = x.mean(axis=0)
    x = x - mean
    y = np.repeat(np.eye(classes), count, axis=0) - 1 / classes
    dual = len(x) < width
    system = x @ x.T if dual else x.T @ x
    # a minimum strength, so that constant features, which are 0 after centring, can be solved
    strength = max(ridge * np.trace(system) / len(system), 1e-30)
    system[np.diag_indices_from(system)] += strength
    if dual:
        kernel = x.T @ scipy.linalg.solve(system, y, assume_a="pos")
    else:
        kernel = scipy.linalg.solve(system, x.T @ y, assume_a="pos")
    return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)
