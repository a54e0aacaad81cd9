"""The fine-tuning step: erase, mix, classify, and all weights learn."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Float32, Int, UInt8

from hpm_jax import random
from hpm_jax.augmentation import erase, mix
from hpm_jax.config import Augment
from hpm_jax.masking import hidden_count, select
from hpm_jax.models import Classifier
from hpm_jax.models.layers import drop_paths, dropout
from hpm_jax.regularizers import Inputs, Regularizer
from hpm_jax.step.criterion import CRITERIA, Criterion
from hpm_jax.step.optimizer import Descend, descend
from hpm_jax.step.schedules import FinetuneSchedule
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import Metrics, make_update
from hpm_jax.tokens import AnyArray, Tokenizer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is fine-tuned: the plugs of the step."""

    tokenizer: Tokenizer
    augment: Augment
    drop_path: float = 0.0
    head_dropout: float = 0.0
    mask_sub: float = 0.0  # the share of patches hidden from the second pass; 0 makes none
    max_sup: bool = False
    regularizers: tuple[Regularizer, ...] = ()
    criterion: Criterion = CRITERIA["one"]


class Batch(NamedTuple):
    """What the classifier sees of a batch, after everything random has been drawn."""

    patches: Float32[Array, "B L P"]
    targets: Float32[Array, "B classes"]  # summing to 1, but for any number of classes
    drop: Float[Array, "B depth 2"] | None  # for the first pass
    keep: Int[Array, "B K"] | None  # for MaskSub's second pass
    drop_again: Float[Array, "B depth 2"] | None  # for MaskSub's second pass
    head_drop: Float[Array, "B D"] | None = None  # for the first pass
    head_drop_again: Float[Array, "B D"] | None = None  # for MaskSub's second pass
    drawn: dict[str, Any] | None = None  # by name, the random arrays of the regularizers


def prepare(
    model: Classifier,
    recipe: Recipe,
    images: UInt8[AnyArray, "B *size C"],
    labels: Int[AnyArray, " B"] | UInt8[AnyArray, "B classes"],
    key: Array,
    step: Array | int,
) -> Batch:
    """uint8 images `[B, H, W, C]` and labels `[B]` to a `Batch`, drawn by `(key, step)`.

    For any number of classes, labels are `[B, classes]`.

    Of videos `[B, R, T, H, W, C]` every clip counts as an example of its own.
    """
    augment = recipe.augment
    pixels = recipe.tokenizer.normalize(images)
    count = len(pixels)
    labels = jnp.repeat(labels, count // len(labels), axis=0)
    if augment.erase:
        pixels = erase(
            random.stream(key, "erase", step),
            pixels,
            augment.erase,
            augment.erase_mode,
            augment.erase_count,
        )
    targets = recipe.criterion.targets(labels, model.classes, augment.label_smoothing)
    if augment.mixes:
        pixels, targets = mix(
            random.stream(key, "mix", step),
            pixels,
            targets,
            augment.mixup,
            augment.cutmix,
            augment.mix_probability,
            augment.switch_probability,
            augment.mix_groups,
            augment.mixup_mode,
            augment.cutmix_minmax,
        )
    patches = recipe.tokenizer.patchify(pixels)

    def drop(name):
        return drop_paths(random.stream(key, name, step), count, model.depth, recipe.drop_path)

    def head_drop(name):
        if not recipe.head_dropout:
            return None
        key_of_step = random.stream(key, name, step)
        return dropout(key_of_step, (count, model.width), recipe.head_dropout)

    drawn = {
        regularizer.name: regularizer.draw_for(random.stream(key, regularizer.name, step), patches)
        for regularizer in recipe.regularizers
    }
    first = head_drop("head_dropout")
    if not recipe.mask_sub:
        return Batch(patches, targets, drop("drop_path"), None, None, first, drawn=drawn)
    length = patches.shape[1]
    scores = jax.random.uniform(random.stream(key, "mask_sub", step), (count, length))
    keep = select(scores, hidden_count(length, recipe.mask_sub)).keep
    again = drop("drop_path_again"), first, head_drop("head_dropout_again")
    return Batch(patches, targets, drop("drop_path"), keep, *again, drawn)


def max_suppression(logits: Float[Array, "B classes"]) -> Float[Array, ""]:
    """MaxSup (Zhou et al. 2025): the mean over the batch of `max - mean` of the logits."""
    return jnp.mean(logits.max(axis=-1) - logits.mean(axis=-1))


def classification_loss(
    model: Classifier, recipe: Recipe, frozen: dict[str, Any] | None = None
) -> Callable[[Params, Batch, FinetuneSchedule], tuple[Array, tuple[Metrics, None]]]:
    """Builds `(params, batch, schedule) -> (loss, (metrics, None))` with the terms asked for.

    MaskSub (Heo et al. 2023) makes a second pass over some of the patches that learns from the
    first pass's probabilities: half the loss each.

    Args:
        frozen: by name, the frozen weights of the regularizers.
    """

    criterion = recipe.criterion

    def loss_of(params, batch, schedule):
        classify = functools.partial(model.apply, {"params": params}, batch.patches)
        logits = classify(None, batch.drop, batch.head_drop)
        loss = criterion.loss(logits, batch.targets)
        metrics = {"cross_entropy": loss}
        if recipe.mask_sub:
            again = classify(batch.keep, batch.drop_again, batch.head_drop_again)
            taught = criterion.loss(again, jax.lax.stop_gradient(criterion.shares(logits)))
            loss = 0.5 * (loss + taught)
            metrics["mask_sub"] = taught
        if recipe.max_sup:
            suppressed = max_suppression(logits)
            loss = loss + schedule.max_sup * suppressed
            metrics["max_sup"] = suppressed
        for regularizer in recipe.regularizers:
            name = regularizer.name
            its_own = batch.drawn[name], (frozen or {}).get(name)
            inputs = Inputs(batch.patches, logits, *its_own, batch.targets, criterion)
            metrics[name] = regularizer(model, params, inputs)
            loss = loss + regularizer.weight * metrics[name]
        return loss, ({"loss": loss} | metrics, None)

    return loss_of


def make_finetune_step(
    model: Classifier,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
    descend: Descend = descend,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds the step: `(state, images, labels, key, schedule) -> (state, metrics)`.

    It is pure. Everything random is drawn for the whole batch by `(key, step)` before the batch is
    cut into parts, so that it does not depend on accumulation or on devices.

    Args:
        descend: the learning rates of the layers; see `layerwise`.
    """

    def finetune_step(state, images, labels, key, schedule):
        loss_of = classification_loss(model, recipe, state.frozen)
        update = make_update(loss_of, optimizer, accumulation, descend)
        batch = prepare(model, recipe, images, labels, key, state.step)
        state, (metrics, _) = update(state, batch, schedule)
        return state, metrics

    return finetune_step
