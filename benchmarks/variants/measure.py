"""What one step costs, and how far two of them are apart."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from benchmarks.variants.table import Subject
from hpm_jax.config import Config
from hpm_jax.run.build import (
    Start,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import make_train_step


class Bench(NamedTuple):
    """What all variants share."""

    config: Config
    subject: Subject  # the package's own
    state: TrainState
    images: Array  # uint8 [B, H, W, C]
    key: Array
    schedule: Schedule


class Compiled(NamedTuple):
    """A step that is ready to be taken."""

    step: Any  # (state, images, key, schedule) -> (state, metrics)
    seconds: float  # to compile
    temporaries: int  # bytes, by the compiler


def bench_of(config: Config) -> Bench:
    """The package's own step of a config, on noise, half of the hidden patches hard."""
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    key = jax.random.key(0)
    init = build_init(config, model, method, optimizer)
    state = jax.jit(init)(key, Start(frozen=load_frozen(method)))
    shape = (config.optimizer.batch_size, *config.data.image_size, config.data.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Bench(
        config, Subject(model, method), state, jnp.asarray(images), key, schedule_of(config)
    )


def schedule_of(config: Config) -> Schedule:
    """A step late in training: half of the hidden patches are hard, if there is a teacher."""
    hard = config.hidden // 2 if build_method(config).uses_teacher else 0
    return Schedule(np.float32(1e-4), np.float32(1e-3), np.int32(hard))


def step_of(config: Config, subject: Subject) -> Any:
    """The jitted step."""
    step = make_train_step(subject.model, subject.method, build_optimizer(config))
    return jax.jit(step, donate_argnums=0 if subject.donate else ())


def compile_step(bench: Bench, subject: Subject) -> Compiled:
    """Compiles a step."""
    step = step_of(bench.config, subject)
    began = time.perf_counter()
    compiled = step.lower(bench.state, bench.images, bench.key, bench.schedule).compile()
    seconds = time.perf_counter() - began
    return Compiled(compiled, seconds, compiled.memory_analysis().temp_size_in_bytes)


def taker(bench: Bench, compiled: Compiled) -> Callable[[], None]:
    """A function that takes the next step, from a copy of the bench's state on, and waits."""
    state = jax.tree.map(jnp.copy, bench.state)

    def take() -> None:
        nonlocal state
        state, metrics = compiled.step(state, bench.images, bench.key, bench.schedule)
        jax.block_until_ready((state, metrics))

    return take


class Ratios(NamedTuple):
    """What one step takes over what another takes, for each pair of turns, sorted."""

    seconds: list[float]
    processor: list[float]  # seconds of all threads: other programs on the machine matter less


def ratios(one: Callable[[], None], other: Callable[[], None], pairs: int) -> Ratios:
    """Takes turns, and who begins changes."""
    seconds, processor = [], []
    for turn in range(pairs + 1):
        took = {}
        for take in (one, other) if turn % 2 else (other, one):
            began, spent = time.perf_counter(), time.process_time()
            take()
            took[take] = time.perf_counter() - began, time.process_time() - spent
        if turn:  # the first pair warms up
            seconds.append(took[one][0] / took[other][0])
            processor.append(took[one][1] / took[other][1])
    return Ratios(sorted(seconds), sorted(processor))


def spread(found: list[float]) -> tuple[float, float, float]:
    """Median, and the quartiles."""
    if len(found) < 2:
        return found[0], found[0], found[0]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return middle, low, high


class Outcome(NamedTuple):
    """What two steps are compared by."""

    loss: Array
    gradients: Any  # as AdamW's first moment has them after one step, clipped and scaled
    predicted: Array  # [B, L]: the teacher's losses


def outcome_of(bench: Bench, subject: Subject, compiled: Compiled) -> Outcome:
    """A first step, whose mask is random, and what the teacher predicts."""
    state = jax.tree.map(jnp.copy, bench.state)
    schedule = bench.schedule._replace(n_hard=np.int32(0))
    state, metrics = compiled.step(state, bench.images, bench.key, schedule)
    patches = subject.method.patches(bench.images)
    predicted = jax.jit(lambda params, x: teacher_losses(subject.model, params, x))
    gradients = optax.tree.get(state.optimizer, "mu")
    return Outcome(metrics["loss"], gradients, predicted(bench.state.teacher, patches))


def teacher_losses(model: Any, params: Any, patches: Array) -> Array:
    """What a teacher predicts, `[B, L]`."""
    return model.apply({"params": params}, patches, method="predict_loss")


def deviation(own: Outcome, other: Outcome) -> float:
    """The largest difference, relative to the largest number of its array.

    For a gradient that is at least a thousandth of the largest of all: some are zero but for
    rounding, such as that of the bias of the keys.
    """
    floor = 1e-3 * max(float(jnp.abs(x).max()) for x in jax.tree.leaves(own.gradients))

    def apart(a, b, floor=0.0):
        return float(jnp.abs(a - b).max()) / max(float(jnp.abs(a).max()), floor)

    gradients = jax.tree.map(lambda a, b: apart(a, b, floor), own.gradients, other.gradients)
    parts = apart(own.loss, other.loss), apart(own.predicted, other.predicted)
    return max(*parts, *jax.tree.leaves(gradients))
