"""What features know: logistic regression and kNN on standardised features, one patch alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.compare.data import Images, Measured
from hpm_jax.config.compare import Compare
from hpm_jax.evaluation.features import pool
from hpm_jax.evaluation.knn import nearest, vote
from hpm_jax.evaluation.logistic import LinearClassifier, fit, logistic_accuracy, standardised
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method
from hpm_jax.step.state import Params

BATCH = 250  # images encoded at once
ITERATIONS = 200  # of L-BFGS, at most
PIXEL_ITERATIONS = 60  # of raw pixels, whose penalty is searched
PENALTIES = (1e-1, 1e-2, 1e-3)
Correct = dict[str, np.ndarray]  # by measure, whether each test image is told right, [N] bool


class Encoded(NamedTuple):
    """Two views of every image of a split."""

    whole: np.ndarray  # [N, 2 D] float32: the cls token and the mean of the patches
    patch: np.ndarray  # [N, D] float32: one patch, another in each image, the same in all cells


Encode = Callable[[Params, np.ndarray, np.ndarray], tuple[Array, Array]]


def make_encode(model: MaskedAutoencoder, method: Method) -> Encode:
    """Builds the compiled `(params, uint8 images, places [B]) -> (whole, patch)`."""
    extra = model.layout.extra_tokens
    whole = "both" if model.layout.cls_token else "mean"

    def encode(params: Params, images: Array, places: Array) -> tuple[Array, Array]:
        tokens: Any = model.apply({"params": params}, method.patches(images), method="encode")
        tokens = tokens.astype(jnp.float32)
        one = jnp.take_along_axis(tokens[:, extra:], places[:, None, None], axis=1)
        return pool(tokens, whole, extra), one[:, 0]

    return jax.jit(encode)


def encode_split(encode: Encode, params: Params, split: Images, patches: int) -> Encoded:
    """The features of a split, a batch at a time; the last batch is filled up."""
    places = np.random.default_rng(0).integers(patches, size=len(split.pixels))
    parts = []
    for start in range(0, len(places), BATCH):
        images, place = split.pixels[start : start + BATCH], places[start : start + BATCH]
        missing = BATCH - len(place)
        images = np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
        found = encode(params, images, np.pad(place, (0, missing)))
        parts.append([np.asarray(x)[: len(place)] for x in found])
    return Encoded(*map(np.concatenate, zip(*parts, strict=True)))


def measure_representation(
    options: Compare, encode: Encode, params: Params, measured: Measured, patches: int
) -> Correct:
    """Which test images each measure of features tells right.

    Args:
        encode: from `make_encode`.
        params: of the student.
        patches: of one image.
    """
    wanted = set(options.measures) & {"logistic", "knn", "patch"}
    if not wanted:
        return {}
    bank = encode_split(encode, params, measured.bank, patches)
    test = encode_split(encode, params, measured.test, patches)
    known, asked = measured.bank.labels, measured.test.labels
    found: Correct = {}
    if "logistic" in wanted:
        found["logistic"] = logistic(bank.whole, known, test.whole, options.penalty) == asked
    if "knn" in wanted:
        found["knn"] = neighbours(bank.whole, known, test.whole, asked, options.neighbors)
    if "patch" in wanted:
        found["patch"] = logistic(bank.patch, known, test.patch, options.penalty) == asked
    return found


def logistic(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    penalty: float,
    iterations: int = ITERATIONS,
) -> np.ndarray:
    """The classes `[Q]` that a logistic regression of standardised features gives queries.

    Args:
        penalty: as in `hpm_jax.evaluation.logistic.fit`; the same for all that are compared, so
            that no cell profits from a lucky choice.
    """
    classes = int(labels.max()) + 1
    known, asked = standardised(jnp.asarray(bank), jnp.asarray(queries))
    start = LinearClassifier(jnp.zeros((bank.shape[1], classes)), jnp.zeros(classes))
    weights = jnp.ones(len(bank))
    fitted = fit(start, known, jnp.asarray(labels, jnp.int32), weights, penalty, iterations)
    return np.asarray(fitted.logits(asked).argmax(axis=1))


def neighbours(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, count: int
) -> np.ndarray:
    """Which queries `[Q]` the vote of their nearest neighbours tells right, bool.

    Features are standardised first: kNN on uncentred ones moves with their mean more than with
    what they know (Marks et al. 2024, 2407.12210).
    """
    known, asked = standardised(jnp.asarray(bank), jnp.asarray(queries))
    closest, index = nearest(asked, known, min(count, len(bank)))
    votes = jnp.asarray(labels, jnp.int32)[index]
    classes = int(labels.max()) + 1
    counts = (min(count, len(bank)),)
    predicted, _ = vote(closest, votes, jnp.asarray(truth, jnp.int32), counts, classes, 0.07)
    return np.asarray(predicted)[0] == truth


def measure_pixels(options: Compare, measured: Measured) -> tuple[Correct, float]:
    """The same measures of raw pixels, and the penalty of the logistic regression.

    The baseline chooses its own penalty, on a tenth of the bank that is held out: it gets the
    better of every doubt.
    """
    bank, test = (
        split.pixels.reshape(len(split.pixels), -1).astype(np.float32) / 255
        for split in (measured.bank, measured.test)
    )
    known, asked = measured.bank.labels, measured.test.labels
    found: Correct = {}
    penalty = options.penalty
    if "logistic" in options.measures:
        chosen = logistic_accuracy(bank, known, test, asked, PENALTIES, PIXEL_ITERATIONS)
        penalty = chosen.strength
        found["logistic"] = logistic(bank, known, test, penalty, PIXEL_ITERATIONS) == asked
    if "knn" in options.measures:
        found["knn"] = neighbours(bank, known, test, asked, options.neighbors)
    return found, penalty
