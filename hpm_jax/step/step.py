"""The training step: one pure function of (state, images, key, schedule), compiled once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hpm_jax import random
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.choose import mask_units, predicted_losses, remembered_losses
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import Metrics, make_update
from hpm_jax.tokens import Mask, gather


class Masked(NamedTuple):
    """A batch, masked: what the loss is computed of."""

    patches: Array  # [B, L, P] float32
    mask: Mask
    order: Array | None = None  # [B, M] int32: in which the hidden patches are paired


class Losses(NamedTuple):
    """What the student's pass gives, patch by hidden patch, before anything is averaged."""

    reconstruction: Array  # [B, M] float32
    predicted: Array | None  # [B, M] float32
    values: Array  # [B, M, D] float32: the rebuilt target
    features: Array  # [B, 1 + K, D]


def student_losses(
    model: MaskedAutoencoder, method: Method, params: Params, patches: Array, mask: Mask
) -> Losses:
    """Hides, rebuilds, and measures each hidden patch."""
    prediction = model.apply({"params": params}, patches, mask)
    target = gather(jax.lax.stop_gradient(method.target_of(patches)), mask.hide)
    losses = method.objective(prediction.values, target)
    return Losses(losses, prediction.loss, prediction.values, prediction.features)


def total_loss(method: Method, losses: Losses, order: Array | None = None) -> tuple[Array, Metrics]:
    """`mean(reconstruction) + weight * ranking`, and all its parts.

    Args:
        order: `[B, M]` in which the hidden patches are paired; None for raster order.
    """
    reconstruction = jnp.mean(losses.reconstruction)
    if method.ranking is None:
        return reconstruction, {"loss": reconstruction, "reconstruction": reconstruction}
    predicted, true = losses.predicted, losses.reconstruction
    if order is not None:
        predicted, true = (jnp.take_along_axis(x, order, axis=1) for x in (predicted, true))
    ranking = method.ranking(predicted, true)
    loss = reconstruction + method.ranking_weight * ranking
    parts = {
        "reconstruction": reconstruction,
        "ranking": ranking,
        "ranked_correctly": method.ranked(predicted, true),
    }
    return loss, {"loss": loss} | parts


def pair_order(method: Method, mask: Mask, key: Array) -> Array | None:
    """The order in which hidden patches are paired `[B, M]`: random where some pairs stand for all.

    None where every pair counts.
    """
    if not method.shuffle:
        return None
    return jnp.argsort(jax.random.uniform(key, mask.hide.shape), axis=1)


def masked_loss(model: MaskedAutoencoder, method: Method) -> Callable[..., tuple[Array, Metrics]]:
    """Builds `(params, masked, schedule) -> (loss, metrics)` of a `Masked` batch."""

    def loss_of(params, masked, schedule):
        losses = student_losses(model, method, params, masked.patches, masked.mask)
        return total_loss(method, losses, masked.order)

    return loss_of


def make_train_step(
    model: MaskedAutoencoder,
    method: Method,
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
) -> Callable[[TrainState, Array, Array, Schedule], tuple[TrainState, Metrics]]:
    """Builds the step: `(state, images, key, schedule) -> (state, metrics)`.

    Args:
        model: the masked autoencoder.
        method: the plugs.
        optimizer: from `make_optimizer`.
        accumulation: into how many parts, one after the other, a batch is cut; masks do not
            depend on it.

    The step is pure. It takes uint8 images `[B, H, W, C]` or clips (see `Method.patches`), the
    root key of the run and the scalars of this step; its metrics are float32 scalars.
    """
    update = make_update(masked_loss(model, method), optimizer, accumulation)
    ask = predicted_losses if method.every_steps == 1 else remembered_losses

    def train_step(state, images, key, schedule):
        patches = method.patches(images)
        n_hard = schedule.n_hard
        predicted = ask(model, method, state, patches, n_hard, accumulation)
        if state.scores is not None:
            state = state.replace(scores=predicted)
        if method.views > 1:
            patches = jnp.repeat(patches, method.views, axis=0)
            predicted = None if predicted is None else jnp.repeat(predicted, method.views, axis=0)
        mask_key = random.stream(key, "mask", state.step)
        mask = mask_units(model, method, patches, mask_key, n_hard, predicted)
        order = pair_order(method, mask, random.stream(key, "pairs", state.step))
        return update(state, Masked(patches, mask, order), schedule)

    return train_step
