"""Measures features: logistic regression and kNN, standardised, and a single patch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.compare.data import Images, Measured
from hpm_jax.config.compare import Compare
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.checks import check_finite_features
from hpm_jax.evaluation.features import pool
from hpm_jax.evaluation.standardised import best_logistic, knn, logistic, pixel_features
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method
from hpm_jax.step.state import Params

BATCH = 250  # images encoded at once
Correct = dict[
    str, np.ndarray
]  # by measure, whether each test image is classified correctly, [N] bool


class Encoded(NamedTuple):
    """Two views of every image of a split."""

    whole: np.ndarray  # [N, 2 D] float32: the cls token and the mean of the patches
    patch: np.ndarray  # [N, D] float32: one patch, different per image, equal in all cells


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
    """Computes the features of a split."""
    places = np.random.default_rng(0).integers(patches, size=len(split.pixels))
    encode_batch = functools.partial(encode, params)
    return Encoded(*in_batches(encode_batch, BATCH, split.pixels, places))


def measure_representation(
    options: Compare,
    encode: Encode,
    params: Params,
    measured: Measured,
    patches: int,
    whose: str = "the encoder",
) -> Correct:
    """Returns which test images each measure classifies correctly.

    Args:
        encode: from `make_encode`.
        params: parameters of the student.
        patches: number of patches of one image.
        whose: name of the parameters in messages.

    Raises:
        DataError: for features that are not finite.
    """
    wanted = set(options.measures) & {"logistic", "knn", "patch"}
    if not wanted:
        return {}
    bank = encode_split(encode, params, measured.bank, patches)
    test = encode_split(encode, params, measured.test, patches)
    for features in (*bank, *test):
        check_finite_features(features, whose)
    known, asked = measured.bank.labels, measured.test.labels
    found: Correct = {}
    if "logistic" in wanted:
        found["logistic"] = logistic(bank.whole, known, test.whole, options.penalty) == asked
    if "knn" in wanted:
        found["knn"] = knn(bank.whole, known, test.whole, asked, options.neighbors)
    if "patch" in wanted:
        found["patch"] = logistic(bank.patch, known, test.patch, options.penalty) == asked
    return found


def measure_pixels(options: Compare, measured: Measured) -> tuple[Correct, float]:
    """Returns the same measures on raw pixels, and the chosen penalty of logistic regression."""
    bank, test = pixel_features(measured.bank.pixels), pixel_features(measured.test.pixels)
    known, asked = measured.bank.labels, measured.test.labels
    found: Correct = {}
    penalty = options.penalty
    if "logistic" in options.measures:
        found["logistic"], penalty = best_logistic(bank, known, test, asked)
    if "knn" in options.measures:
        found["knn"] = knn(bank, known, test, asked, options.neighbors)
    return found, penalty
