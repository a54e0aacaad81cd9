"""Fine-tunes on a fraction of the labels, with the same number of steps for all weights."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from hpm_jax import random
from hpm_jax.compare.data import Images, Measured
from hpm_jax.config.compare import FinetuneBudget
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.features import pool
from hpm_jax.evaluation.standardised import logistic, pixel_features
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method
from hpm_jax.step.state import Params

BATCH = 250  # test images classified at once


def measure_finetuning(
    budget: FinetuneBudget,
    model: MaskedAutoencoder,
    method: Method,
    params: Params,
    measured: Measured,
    seed: int,
) -> dict[str, np.ndarray]:
    """Returns which test images are classified correctly after fine-tuning on each fraction.

    The key of a fraction is `finetune_<percent>`. A linear head on [cls, mean] starts at zero, all
    weights are trained, images are flipped at random, and batches depend only on the seed. Random
    weights get the same steps, as the baseline from scratch.
    """
    classes = int(measured.bank.labels.max()) + 1
    found = {}
    for name, subset in labelled_shares(budget, measured).items():
        predicted = finetune(budget, model, method, params, subset, measured.test, classes, seed)
        found[name] = predicted == measured.test.labels
    return found


def measure_pixels_of_shares(
    budget: FinetuneBudget, measured: Measured, penalty: float
) -> dict[str, np.ndarray]:
    """The same by a logistic regression of raw pixels on the same labelled images."""
    queries = pixel_features(measured.test.pixels)
    return {
        name: logistic(pixel_features(subset.pixels), subset.labels, queries, penalty)
        == measured.test.labels
        for name, subset in labelled_shares(budget, measured).items()
    }


def labelled_shares(budget: FinetuneBudget, measured: Measured) -> dict[str, Images]:
    """The training images that have labels, by the name of the measure."""
    found = {}
    for share in budget.shares:
        chosen = stratified(measured.bank.labels, share)
        images = Images(measured.bank.pixels[chosen], measured.bank.labels[chosen])
        found[f"finetune_{100 * share:g}"] = images
    return found


def stratified(labels: np.ndarray, share: float) -> np.ndarray:
    """Returns indices of a fraction of each class, at least one, the same in all cells."""
    rng = np.random.default_rng(0)
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(
        np.concatenate([rng.permutation(x)[: max(1, round(share * len(x)))] for x in parts])
    )


def finetune(
    budget: FinetuneBudget,
    model: MaskedAutoencoder,
    method: Method,
    params: Params,
    train: Images,
    test: Images,
    classes: int,
    seed: int,
) -> np.ndarray:
    """Returns the predicted classes `[Q]` of the test images after `budget.steps` steps."""
    extra = model.layout.extra_tokens
    whole = "both" if model.layout.cls_token else "mean"
    width = model.width * (2 if whole == "both" else 1)

    def logits_of(weights: Any, images: Array) -> Array:
        params, head = weights
        tokens: Any = model.apply({"params": params}, method.patches(images), method="encode")
        features = nn.standardize(pool(tokens, whole, extra))
        return features @ head["kernel"] + head["bias"]

    warmup = max(budget.steps // 10, 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, budget.learning_rate, warmup, budget.steps)
    optimizer = optax.adamw(schedule, b2=0.999, weight_decay=budget.weight_decay)

    def step(carry, inputs):
        weights, state = carry
        index, key = inputs
        images, labels = pixels[index], truth[index]
        flip = jax.random.bernoulli(key, 0.5, (len(index), 1, 1, 1))
        images = jnp.where(flip, images[:, :, ::-1], images)

        def loss_of(weights):
            logits = logits_of(weights, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss_of)(weights), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    @jax.jit
    def run(weights, index, keys):
        return jax.lax.scan(step, (weights, optimizer.init(weights)), (index, keys))[0][0]

    pixels, truth = jnp.asarray(train.pixels), jnp.asarray(train.labels, jnp.int32)
    rng = np.random.default_rng(seed)
    epochs = -(-budget.steps * budget.batch_size // len(train.labels))
    order = np.concatenate([rng.permutation(len(train.labels)) for _ in range(epochs)])
    index = order[: budget.steps * budget.batch_size].reshape(budget.steps, budget.batch_size)
    keys = jax.random.split(random.stream(jax.random.key(seed), "flip", 0), budget.steps)
    head = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
    encoder = {"encoder": params["encoder"]} if "encoder" in params else params
    weights = run((encoder, head), jnp.asarray(index), keys)
    classify = functools.partial(jax.jit(logits_of), weights)
    return in_batches(classify, BATCH, test.pixels).argmax(axis=1)
