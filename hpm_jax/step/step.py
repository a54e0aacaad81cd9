"""The training step: one pure function of state, batch, key and schedule, compiled once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float32

from hpm_jax import random
from hpm_jax.losses.reconstruction import compared
from hpm_jax.losses.term import Outputs
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.mask import cached_readings, make_mask, read_networks, run_networks
from hpm_jax.step.method import Method, own
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import Metrics, make_update
from hpm_jax.tokens import Mask, gather


class Masked(NamedTuple):
    """A batch, masked: what the loss is computed of, every part with a leading axis of images."""

    patches: Float32[Array, "B L P"]
    mask: Mask
    drawn: dict[str, Any] | None = None  # by slot, the random numbers of the plugs that draw
    readings: dict[str, Array] | None = None  # for target and terms; None where nothing has run
    annotations: dict[str, Array] | None = None  # of each example, for the terms: labels


def draw_all(method: Method, mask: Mask, key: Array, step: Array | int) -> dict[str, Any]:
    """The random numbers of every plug for the whole batch, each from a stream of its own."""
    drawn = {
        slot: plug.draw(random.stream(key, slot, step), mask) for slot, plug in method.plugs.items()
    }
    return {slot: numbers for slot, numbers in drawn.items() if numbers is not None}


def student_pass(
    model: MaskedAutoencoder, method: Method, state: TrainState, params: Params, masked: Masked
) -> Outputs:
    """Hides, rebuilds, and measures each hidden patch.

    Args:
        state: whose frozen weights and whose plugs' states are used; its teacher where the target
            reads one and `masked` has no readings.
        params: the student.
    """
    patches, mask, readings = masked.patches, masked.mask, masked.readings
    if readings is None:
        readings = run_networks(model, method, state, patches, hard=False).target
    collect = tuple(number - 1 for number in method.student_blocks)
    related = tuple(
        number - 1 if number > 0 else model.depth + number for number in method.related_blocks
    )
    drawn = own(state, "decoder", params, masked.drawn).drawn
    inputs: Any = (patches, mask, collect, drawn, method.takes_latents, related)
    prediction: Any = model.apply({"params": params}, *inputs)
    whole = method.target_of(patches, own(state, "target", params), readings)
    whole = jax.lax.stop_gradient(whole)
    target = gather(whole, mask.hide)
    whole_features = None
    if method.encodes_whole:
        seen = method.whole_input(patches, masked.drawn)
        whole_features = model.apply({"params": params}, seen, method="encode")
    return Outputs(
        losses=compared(method.objective, prediction.values, target),
        predicted=prediction.loss,
        values=prediction.values,
        target=target,
        features=prediction.features,
        patches=patches,
        mask=mask,
        unit=method.unit,
        whole_target=whole,
        blocks=dict(zip(method.student_blocks, prediction.blocks, strict=True)) if collect else {},
        latents=prediction.latents,
        heads=dict(zip(method.related_blocks, prediction.heads, strict=True)) if related else {},
        readings=readings,
        sizes=model.decoder_sizes,
        views=method.views,
        annotations=masked.annotations,
        whole_features=whole_features,
    )


def total_loss(
    method: Method, state: TrainState, params: Params, masked: Masked, outputs: Outputs
) -> tuple[Array, Metrics]:
    """The sum of all terms, each times its weight, and all that they report."""
    total: Array = jnp.zeros((), jnp.float32)
    metrics: Metrics = {}
    for term in method.terms:
        its_own = own(state, term.arrays_of or term.name, params, masked.drawn)
        value, others = term(outputs._replace(own=its_own, tokenizer=method.tokenizer))
        total = total + term.weight * value
        metrics |= {getattr(term, "reported", term.name): value} | others
    return total, {"loss": total} | metrics


def observations(method: Method, outputs: Outputs) -> dict[str, Any]:
    """What the plugs with a state of their own learn from the student's pass, by slot."""
    arrays: Any = outputs._replace(unit=None, sizes=None, views=None)  # type: ignore[arg-type]
    stopped = jax.lax.stop_gradient(arrays)
    stopped = stopped._replace(unit=outputs.unit, sizes=outputs.sizes, views=outputs.views)
    found = {slot: plug.observe(stopped) for slot, plug in method.plugs.items()}
    return {slot: values for slot, values in found.items() if values is not None}


Loss = Callable[[Params, Masked, Any], tuple[Array, tuple[Metrics, dict[str, Any]]]]


def masked_loss(model: MaskedAutoencoder, method: Method, state: TrainState) -> Loss:
    """Builds `(params, masked, schedule) -> (loss, (metrics, observations))`.

    Args:
        state: whose frozen weights and whose plugs' states are used.
    """

    def loss_of(params: Params, masked: Masked, schedule: Any):
        outputs = student_pass(model, method, state, params, masked)
        loss, metrics = total_loss(method, state, params, masked, outputs)
        return loss, (metrics, observations(method, outputs))

    return loss_of


def make_train_step(
    model: MaskedAutoencoder,
    method: Method,
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds the step: `(state, images, *annotations, key, schedule) -> (state, metrics)`.

    Args:
        model: the masked autoencoder.
        method: the plugs.
        optimizer: from `make_optimizer`.
        accumulation: into how many parts, one after the other, a batch is cut; masks do not
            depend on it.

    The step is pure. It takes uint8 images `[B, H, W, C]` or clips (see `Tokenizer`), what
    `method.annotations` names of each example, `[B, ...]` (labels; most methods read none), the
    root key of the run and the scalars of this step; its metrics are float32 scalars.
    """
    cached = method.teacher.every_steps > 1 and method.strategy.reads
    read = cached_readings if cached else read_networks

    def train_step(state: TrainState, images: Array, *others: Any) -> tuple[TrainState, Any]:
        *examples, key, schedule = others
        annotations = dict(zip(method.annotations, examples, strict=True))
        patches = method.patches(images)
        n_hard, view_key = jnp.asarray(schedule.n_hard), random.stream(key, "view", state.step)
        readings = read(model, method, state, patches, n_hard, accumulation, view_key)
        if state.scores is not None:
            state = state.replace(scores=readings.units["teacher"]["predicted_loss"])
        if method.views > 1:
            patches, readings = jax.tree.map(
                lambda x: jnp.repeat(x, method.views, axis=0), (patches, readings)
            )
        annotations = {
            name: jnp.repeat(x, len(patches) // len(x), axis=0) for name, x in annotations.items()
        }
        mask_key = random.stream(key, "mask", state.step)
        mask = make_mask(method, state, patches, mask_key, schedule, readings.units)
        drawn = draw_all(method, mask, key, state.step)
        masked = Masked(patches, mask, drawn, readings.target, annotations)
        update = make_update(masked_loss(model, method, state), optimizer, accumulation)
        before = state
        state, (metrics, observed) = update(state, masked, schedule)
        if not method.teacher.averages:
            state = state.replace(teacher=before.teacher)
        return update_plugs(method, before, state, observed), metrics

    return train_step


def update_plugs(
    method: Method, before: TrainState, after: TrainState, observed: dict[str, Any]
) -> TrainState:
    """The states of the plugs after a step."""
    if not before.plugs:
        return after
    plugs = {
        slot: method.plugs[slot].update_state(its_own, after.params, observed.get(slot))
        for slot, its_own in before.plugs.items()
    }
    return after.replace(plugs=plugs)
