"""Which patches a step hides: the teacher looks, the strategy scores, the highest are hidden."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.masking import select
from hpm_jax.masking.strategies import Context
from hpm_jax.masking.units import every_frame_of
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import join, split
from hpm_jax.tokens import Mask


def look(
    model: MaskedAutoencoder, method: Method, teacher: Params, patches: Array, passes: int = 1
) -> Array:
    """The teacher looks: the loss it expects of every unit, `[B, U]` float32.

    It sees every `method.frame_stride`-th frame of the grid, and says what it expects of the
    others as of patches that are hidden from it.

    Args:
        passes: into how many parts the teacher's batch is cut, one after the other.
    """
    seen = every_frame_of(model.grid, method.frame_stride)
    in_raster_order = np.argsort(np.concatenate(seen))

    def predict(patches):
        if method.frame_stride == 1:
            return model.apply({"params": teacher}, patches, method="predict_loss")
        mask = Mask(*(jnp.tile(x, (len(patches), 1)) for x in seen))
        losses = model.apply({"params": teacher}, patches, mask, method="predict_loss")
        return losses[:, in_raster_order]

    return method.unit(model).pool(join(jax.lax.map(predict, split(patches, passes))))


def predicted_losses(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Array,
    n_hard: Array,
    passes: int = 1,
) -> Array | None:
    """What the strategy may know of each unit, `[B, U]`; None where it does not ask.

    The teacher is in the graph only for a strategy that asks it, and runs only while `n_hard` is
    above 0.
    """
    if not method.strategy.asks_teacher:
        return None

    def ask(patches):
        return look(model, method, state.teacher, patches, passes)

    def do_not_ask(patches):
        return jnp.zeros((len(patches), method.unit(model).count), jnp.float32)

    return jax.lax.cond(n_hard > 0, ask, do_not_ask, patches)


def remembered_losses(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Array,
    n_hard: Array,
    passes: int = 1,
) -> Array:
    """The same, where the teacher looks only at every `method.every_steps`-th step.

    In between the batch is the same, and what was said of it stands in `state.scores`, NaN as
    long as nothing was.
    """
    unknown = jnp.isnan(state.scores).any()

    def ask(patches):
        return look(model, method, state.teacher, patches, passes)

    def remember(patches):
        return jnp.where(n_hard > 0, state.scores, jnp.nan)

    due = (state.step % method.every_steps == 0) | unknown
    return jax.lax.cond((n_hard > 0) & due, ask, remember, patches)


def mask_units(
    model: MaskedAutoencoder,
    method: Method,
    patches: Array,
    key: Array,
    n_hard: Array,
    predicted: Array | None,
) -> Mask:
    """The strategy scores the units; the highest are hidden, each with all its patches."""
    unit = method.unit(model)
    context = Context(unit.merge(patches), unit.of_units, n_hard, predicted)
    return unit.spread(select(method.strategy.scores(key, context), method.hidden))


def choose_mask(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Array,
    key: Array,
    n_hard: Array,
    passes: int = 1,
) -> Mask:
    """The mask of patches `[B, L, P]` after a fresh look of the teacher."""
    predicted = predicted_losses(model, method, state, patches, n_hard, passes)
    return mask_units(model, method, patches, key, n_hard, predicted)
