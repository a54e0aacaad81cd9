"""The masking step: run the networks that plugs read, score units, hide the highest."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax import random
from hpm_jax.masking.selection import (
    ask_some,
    count_some,
    replace_some,
    select,
    select_some,
)
from hpm_jax.masking.strategy import Context, Readings
from hpm_jax.masking.units import every_frame_of
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method, own
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import join_parts, split
from hpm_jax.tokens import AnyArray, Mask


class AllReadings(NamedTuple):
    """What the plugs of a step read of the networks."""

    units: Mapping[str, Readings]  # by network, for the strategy: [B, U] or [B, U, D]
    target: Readings  # of the teacher, for the target and the terms: [B, L] or [B, L, D]


def run_network(
    model: MaskedAutoencoder,
    method: Method,
    params: Params,
    patches: Float[AnyArray, "B L P"],
    passes: int = 1,
    reads: tuple[str, ...] = ("predicted_loss",),
    key: Array | None = None,
) -> Readings:
    """Outputs of one network for every patch, `[B, L]` or `[B, L, D]` float32.

    The network encodes what the view of the teacher shows, see `draw_view`; the losses of the other
    patches are predicted as those of hidden patches are. With the view "parts" the input is one
    part of the image after the other, see `losses_by_parts`.

    Args:
        params: of the network.
        passes: number of parts of the batch, computed one after the other.
        reads: which outputs; see `MaskedAutoencoder.read`.
        key: of random views.
    """
    model = method.teacher.computed(model)

    def run(inputs):
        patches, mask = inputs
        if method.parts > 1:
            return losses_by_parts(model, method, params, patches)
        if mask is None:
            return model.apply({"params": params}, patches, reads, method="read")
        found = model.apply({"params": params}, patches, reads, mask, method="read")
        place = jnp.argsort(jnp.concatenate(mask[:2], axis=1), axis=1)
        return jax.tree.map(lambda x: jnp.take_along_axis(x, place, axis=1), found)

    inputs = patches, draw_view(method, len(patches), key)
    inputs = jax.tree.map(lambda x: split(x, passes), inputs)
    return jax.tree.map(join_parts, jax.lax.map(run, inputs))


def draw_view(method: Method, images: int, key: Array | None) -> Mask | None:
    """Which patches of each image a network encodes, `[B, K]`, and the others; None for all.

    Every `frame_stride`-th frame, or units drawn at random for each image.

    Args:
        images: number of images, B.
        key: of random views; None for those of pictures and evaluations, which are always the same.
    """
    unit, unseen = method.unit, method.unseen
    if unseen:
        key = jax.random.key(0) if key is None else key
        return unit.spread(select(jax.random.uniform(key, (images, unit.count)), unseen))
    stride = method.teacher.frame_stride
    frames = every_frame_of(unit.grid, stride)[:2]
    return Mask(*(jnp.tile(x, (images, 1)) for x in frames)) if stride > 1 else None


def run_frozen(
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    passes: int,
    reads: tuple[str, ...],
) -> Readings:
    """The same of a teacher that is another model, and does not learn; see `Frozen`."""
    params, teacher = own(state, "teacher").frozen, method.teacher

    def run(patches):
        return teacher.outputs(params, patches, reads, method.unit.grid, method.tokenizer)

    return jax.tree.map(join_parts, jax.lax.map(run, split(patches, passes)))


def losses_by_parts(
    model: MaskedAutoencoder, method: Method, params: Params, patches: Array
) -> Readings:
    """Predicted losses `[B, L]`, each computed while the patch is hidden, as in training.

    The units are divided at random, but always in the same way, into parts as large as the
    student's input. Each part is one input, so all passes together cost as many tokens as the
    whole image. The prediction for a patch is the mean over the parts without that patch.
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


def network_params(state: TrainState, name: str) -> Params:
    """Parameters of the network "teacher", "student", or "own": the strategy's state."""
    if name == "own":
        return own(state, "mask").state
    return state.teacher if name == "teacher" else state.params


def run_networks(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    passes: int = 1,
    hard: bool = True,
    key: Array | None = None,
) -> AllReadings:
    """Outputs of every network that is read, in one pass of each.

    Args:
        hard: whether the strategy reads too, or the target and the terms alone.
        key: of random views, which all networks share.
    """
    found = {}
    for name, reads in method.networks(hard).items():
        if name == "teacher" and not method.teacher.in_state:
            found[name] = run_frozen(method, state, patches, passes, reads)
        else:
            params = network_params(state, name)
            found[name] = run_network(model, method, params, patches, passes, reads, key)
    reads = method.strategy.reads if hard else ()
    units = {
        name: {read: method.unit.pool(found[name][read]) for read in reads}
        for name in method.strategy.networks
        if reads
    }
    return AllReadings(units, {read: found["teacher"][read] for read in method.always_read})


def read_networks(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    n_hard: Int[AnyArray, ""],
    passes: int = 1,
    key: Array | None = None,
) -> AllReadings:
    """What the strategy and the target read, in one pass of each network.

    Networks are in the graph only where they are read. For the strategy they run only while
    `n_hard` is above 0; otherwise all its readings are 0. What the target reads is always there.
    """
    run = functools.partial(run_networks, model, method, state, passes=passes, key=key)
    if not method.strategy.reads:
        return run(patches, hard=False)
    shapes = jax.eval_shape(run, patches).units

    def without_strategy(patches):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return run(patches, hard=False)._replace(units=zeros)

    return jax.lax.cond(n_hard > 0, run, without_strategy, patches)


def cached_readings(
    model: MaskedAutoencoder,
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    n_hard: Int[AnyArray, ""],
    passes: int = 1,
    key: Array | None = None,
) -> AllReadings:
    """The same for a teacher that runs only every `every_steps`-th step.

    The steps in between repeat the batch and read the predictions from `state.scores`, which are
    NaN until the teacher has run.
    """
    assert state.scores is not None
    unknown = jnp.isnan(state.scores).any()

    def run_teacher(patches):
        found = run_networks(model, method, state, patches, passes, key=key)
        return found.units["teacher"]["predicted_loss"]

    def read_cache(patches):
        return jnp.where(n_hard > 0, state.scores, jnp.nan)

    due = (state.step % method.teacher.every_steps == 0) | unknown
    losses = jax.lax.cond((n_hard > 0) & due, run_teacher, read_cache, patches)
    return AllReadings({"teacher": {"predicted_loss": losses}}, {})


def mask_context(
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    n_hard: Int[AnyArray, ""],
    readings: Mapping[str, Readings],
) -> Context:
    """The input of the strategy, from patches `[B, L, P]`."""
    return Context(
        patches=method.unit.merge(patches),
        grid=method.unit.unit_grid,
        tokenizer=method.tokenizer,
        hidden=method.hidden,
        n_hard=n_hard,
        readings=readings,
        state=own(state, "mask").state,
        views=method.views,
    )


def make_mask(
    method: Method,
    state: TrainState,
    patches: Float[AnyArray, "B L P"],
    key: Array,
    schedule: Schedule,
    readings: Mapping[str, Readings],
) -> Mask:
    """The strategy scores the units; the highest are hidden, each with all its patches.

    Args:
        patches: `[B, L, P]`, the views of one image one after the other.
        key: of this step and of masks.
        schedule: `n_hard`, and how many are hidden and count, where those move.
        readings: what the strategy reads, by network.
    """
    n_hard = jnp.asarray(schedule.n_hard)
    scores = method.strategy.scores(key, mask_context(method, state, patches, n_hard, readings))
    if method.least_hidden:
        hidden = jnp.asarray(schedule.hidden)
        mask = select_some(scores, method.least_hidden, method.hidden, hidden)
    else:
        mask = select(scores, method.hidden)
    if method.some_count:
        noise = jax.random.uniform(random.stream(key, "counted", 0), mask.hide.shape)
        mask = count_some(mask, noise, jnp.asarray(schedule.counted))
    if method.queried:
        noise = jax.random.uniform(random.stream(key, "queried", 0), mask.hide.shape)
        mask = ask_some(mask, noise, method.queried)
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
    """The mask of patches `[B, L, P]`, with all networks run now."""
    n_hard, view_key = jnp.asarray(schedule.n_hard), random.stream(key, "view", 0)
    readings = read_networks(model, method, state, patches, n_hard, passes, view_key)
    return make_mask(method, state, patches, key, schedule, readings.units)
