"""Which patches a step hides: onlookers look, the strategy scores, the highest are hidden."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax import random
from hpm_jax.masking.selection import count_some, replace_some, select, select_some
from hpm_jax.masking.strategy import Context, Readings
from hpm_jax.masking.units import every_frame_of
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method, own
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import join_parts, split
from hpm_jax.tokens import AnyArray, Mask

Seen = dict[str, Readings]


def look(
    model: MaskedAutoencoder,
    method: Method,
    params: Params,
    patches: Float[AnyArray, "B L P"],
    passes: int = 1,
    reads: tuple[str, ...] = ("predicted_loss",),
) -> Readings:
    """One onlooker looks: what is asked of it about every patch, `[B, L]` or `[B, L, D]` float32.

    It sees one in `frame_stride` frames of the grid, and predicts the loss of the others as of
    patches that are hidden from it. With the view "parts" it sees one part after the other, see
    `look_at_parts`.

    Args:
        params: the onlooker.
        passes: into how many parts the batch is cut, one after the other.
        reads: what is asked, of "predicted_loss", "features" and "attention".
    """
    stride = method.teacher.frame_stride
    seen, unseen, *_ = every_frame_of(model.grid, stride)
    in_raster_order = np.argsort(np.concatenate([seen, unseen]))

    def ask(patches):
        if method.parts > 1:
            return look_at_parts(model, method, params, patches)
        if stride == 1:
            return model.apply({"params": params}, patches, reads, method="look")
        mask = Mask(*(jnp.tile(x, (len(patches), 1)) for x in (seen, unseen)))
        found = model.apply({"params": params}, patches, reads, mask, method="look")
        return jax.tree.map(lambda x: x[:, in_raster_order], found)

    return jax.tree.map(join_parts, jax.lax.map(ask, split(patches, passes)))


def look_at_parts(
    model: MaskedAutoencoder, method: Method, params: Params, patches: Array
) -> Readings:
    """Predicted losses `[B, L]` of patches that are hidden, as the predictor learned to see them.

    The units are dealt into as many parts as a student's view fits into the image, once and for
    all. The onlooker sees one part after the other, as many tokens as the whole image, and a
    patch's prediction is the mean over the parts that do not hold it.
    """
    unit = method.unit
    dealt = np.random.default_rng(0).permutation(unit.count).astype(np.int32)
    total: Array = jnp.zeros(patches.shape[:2], jnp.float32)
    for part in np.array_split(dealt, method.parts):
        seen, unseen = (jnp.asarray(np.sort(x))[None] for x in (part, np.setdiff1d(dealt, part)))
        mask = jax.tree.map(
            lambda x: jnp.tile(x, (len(patches), 1)), unit.spread(Mask(seen, unseen))
        )
        found: Any = model.apply({"params": params}, patches, mask, method="predict_loss")
        place = jnp.argsort(jnp.concatenate(mask[:2], axis=1)[0])
        total = total + jnp.where(place < mask.keep.shape[1], 0.0, found[:, place])
    return {"predicted_loss": total / (method.parts - 1)}


def onlooker(method: Method, state: TrainState, name: str) -> Params:
    """The parameters that look: the teacher's, the student's, or those the strategy keeps."""
    if name == "own":
        return own(state, "mask").state
    return state.teacher if name == "teacher" else state.params


def ask_all(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    passes: int = 1,
) -> Seen:
    """What every onlooker of the strategy says of each unit, `[B, U]` or `[B, U, D]`."""
    found: Seen = {}
    for name in method.strategy.onlookers:
        params = onlooker(method, state, name)
        readings = look(model, method, params, patches, passes, method.strategy.reads)
        found[name] = jax.tree.map(method.unit.pool, readings)
    return found


def readings(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    n_hard: Int[AnyArray, ""],
    passes: int = 1,
) -> Seen:
    """What the strategy may know of each unit; {} where it asks for nothing.

    A look is in the graph only for a strategy that reads one, and runs only while `n_hard` is
    above 0; else everything is 0.
    """
    if not method.strategy.reads:
        return {}
    ask = functools.partial(ask_all, model, method, state, passes=passes)
    shapes = jax.eval_shape(ask, patches)

    def do_not_ask(patches):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(n_hard > 0, ask, do_not_ask, patches)


def remembered_readings(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    n_hard: Int[AnyArray, ""],
    passes: int = 1,
) -> Seen:
    """The same, where the teacher looks only at every `every_steps`-th step.

    In between the batch is the same, and what was said of it stands in `state.scores`, NaN as
    long as nothing was.
    """
    assert state.scores is not None  # where the teacher looks rarely they are kept
    unknown = jnp.isnan(state.scores).any()

    def ask(patches):
        return ask_all(model, method, state, patches, passes)["teacher"]["predicted_loss"]

    def remember(patches):
        return jnp.where(n_hard > 0, state.scores, jnp.nan)

    due = (state.step % method.teacher.every_steps == 0) | unknown
    losses = jax.lax.cond((n_hard > 0) & due, ask, remember, patches)
    return {"teacher": {"predicted_loss": losses}}


def context_of(
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    n_hard: Int[AnyArray, ""],
    seen: Seen,
) -> Context:
    """What the strategy may look at, of patches `[B, L, P]`."""
    return Context(
        patches=method.unit.merge(patches),
        grid=method.unit.of_units,
        tokenizer=method.tokenizer,
        hidden=method.hidden,
        n_hard=n_hard,
        seen=seen,
        state=own(state, "mask").state,
        views=method.views,
    )


def mask_units(
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    key: Array,
    schedule: Schedule,
    seen: Seen,
) -> Mask:
    """The strategy scores the units; the highest are hidden, each with all its patches.

    Args:
        patches: `[B, L, P]`, the views of one image one after the other.
        key: of this step and of masks.
        schedule: `n_hard`, and how many are hidden and count, where those move.
    """
    n_hard = jnp.asarray(schedule.n_hard)
    scores = method.strategy.scores(key, context_of(method, state, patches, n_hard, seen))
    if method.least_hidden:
        hidden = jnp.asarray(schedule.hidden)
        mask = select_some(scores, method.least_hidden, method.hidden, hidden)
    else:
        mask = select(scores, method.hidden)
    if method.some_count:
        noise = jax.random.uniform(random.stream(key, "counted", 0), mask.hide.shape)
        mask = count_some(mask, noise, jnp.asarray(schedule.counted))
    if method.replaced:
        noise = jax.random.uniform(random.stream(key, "replaced", 0), mask.keep.shape)
        mask = replace_some(mask, noise, method.replaced)
    return method.unit.spread(mask)


def choose_mask(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    key: Array,
    schedule: Schedule,
    passes: int = 1,
) -> Mask:
    """The mask of patches `[B, L, P]` after a fresh look."""
    seen = readings(model, method, state, patches, jnp.asarray(schedule.n_hard), passes)
    return mask_units(method, state, patches, key, schedule, seen)
