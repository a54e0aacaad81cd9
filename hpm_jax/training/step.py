"""The training step: one pure function of (state, images, key, schedule), compiled once."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hpm_jax import random
from hpm_jax.losses import pairs_ranked_correctly, squared_error
from hpm_jax.losses.ranking import RankingLoss
from hpm_jax.masking import select
from hpm_jax.masking.strategies import Context, Strategy
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.tokens import Grid, Mask, gather, normalize, patchify
from hpm_jax.training.schedules import Schedule
from hpm_jax.training.state import Params, TrainState
from hpm_jax.training.update import Metrics, join, make_update, split


@dataclasses.dataclass(frozen=True)
class Method:
    """How the model is pre-trained: the plugs of the step.

    HPM is hard masks with a relative ranking loss; MAE is random masks and no ranking loss.
    """

    patch_size: Grid
    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    hidden: int  # patches hidden in each image
    strategy: Strategy
    target: Callable[[Array], Array]
    objective: Callable[[Array, Array], Array] = squared_error
    ranking: RankingLoss | None = None
    ranking_weight: float = 1.0

    def patches(self, images: Array) -> Array:
        """uint8 images `[B, H, W, C]` to normalised patches `[B, L, P]` float32, on the device."""
        return patchify(normalize(images, self.mean, self.std), self.patch_size)


class Losses(NamedTuple):
    """What the student's pass gives, patch by hidden patch, before anything is averaged."""

    reconstruction: Array  # [B, M] float32
    predicted: Array | None  # [B, M] float32
    values: Array  # [B, M, P] float32: the rebuilt target
    features: Array  # [B, 1 + K, D]


def student_losses(
    model: MaskedAutoencoder, method: Method, params: Params, patches: Array, mask: Mask
) -> Losses:
    """Hides, rebuilds, and measures each hidden patch."""
    prediction = model.apply({"params": params}, patches, mask)
    target = gather(jax.lax.stop_gradient(method.target(patches)), mask.hide)
    losses = method.objective(prediction.values, target)
    return Losses(losses, prediction.loss, prediction.values, prediction.features)


def total_loss(method: Method, losses: Losses) -> tuple[Array, Metrics]:
    """`mean(reconstruction) + weight * ranking`, and all its parts."""
    reconstruction = jnp.mean(losses.reconstruction)
    if method.ranking is None:
        return reconstruction, {"loss": reconstruction, "reconstruction": reconstruction}
    ranking = method.ranking(losses.predicted, losses.reconstruction)
    loss = reconstruction + method.ranking_weight * ranking
    ranked = pairs_ranked_correctly(losses.predicted, losses.reconstruction)
    parts = {"reconstruction": reconstruction, "ranking": ranking, "ranked_correctly": ranked}
    return loss, {"loss": loss} | parts


def masked_loss(model: MaskedAutoencoder, method: Method) -> Callable[..., tuple[Array, Metrics]]:
    """Builds `(params, (patches, mask), schedule) -> (loss, metrics)`."""

    def loss_of(params, batch, schedule):
        return total_loss(method, student_losses(model, method, params, *batch))

    return loss_of


def choose_mask(
    model: MaskedAutoencoder,
    method: Method,
    teacher: Params | None,
    patches: Array,
    key: Array,
    n_hard: Array,
    passes: int = 1,
) -> Mask:
    """The teacher looks, then the strategy scores, then the highest scores are hidden.

    The teacher is in the graph only for a strategy that asks it, and runs only while `n_hard` is
    above 0.

    Args:
        passes: into how many parts the teacher's batch is cut, one after the other.
    """
    predicted_loss = None
    if method.strategy.asks_teacher:

        def predict(patches):
            return model.apply({"params": teacher}, patches, method="predict_loss")

        def look(patches):
            return join(jax.lax.map(predict, split(patches, passes)))

        def do_not_look(patches):
            return jnp.zeros(patches.shape[:2], jnp.float32)

        predicted_loss = jax.lax.cond(n_hard > 0, look, do_not_look, patches)
    context = Context(patches, model.grid, n_hard, predicted_loss)
    return select(method.strategy.scores(key, context), method.hidden)


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

    The step is pure. It takes uint8 images `[B, H, W, C]`, the root key of the run and the
    scalars of this step; its metrics are float32 scalars.
    """
    update = make_update(masked_loss(model, method), optimizer, accumulation)

    def train_step(state, images, key, schedule):
        patches = method.patches(images)
        key = random.stream(key, "mask", state.step)
        mask = choose_mask(
            model, method, state.teacher, patches, key, schedule.n_hard, passes=accumulation
        )
        return update(state, (patches, mask), schedule)

    return train_step
