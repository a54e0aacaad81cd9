"""Pre-training several seeds at once: one compiled step, batches resident on the device."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.compare.arms import with_seed
from hpm_jax.config.pretrain import Config
from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.records import Records
from hpm_jax.run.build import (
    Start,
    batch_inputs,
    build_fresh_params,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.run.divergence import TrainingDiverged
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.stages import make_next_stage
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import make_train_step


class Snapshot(NamedTuple):
    """The state of a run of one seed before `step`."""

    step: int
    epoch: float
    state: TrainState


class Trained(NamedTuple):
    """One seed of one arm, trained."""

    snapshots: list[Snapshot]
    curve: dict[str, list[float]]  # by metric, the mean of each chunk of steps
    steps: int
    seconds_per_step: float  # of all seeds that were trained together


Batches = dict[str, np.ndarray]  # by name, parts of batches with the axes [seeds, steps, B, ...]


def draw_batches(config: Config, records: Records, seeds: Sequence[int], steps: int) -> Batches:
    """Loads the first steps: `image` uint8 `[seeds, steps, B, H, W, C]`, and `label` int32.

    They come from the pipeline of an ordinary run, so a cell is what `hpm_jax.main` trains with
    that seed. They are drawn once for all arms, whose batches and crops are the same.
    """
    size = config.optimizer.batch_size
    shape = len(seeds), steps, size
    drawn = {
        "image": np.empty((*shape, *config.data.train_shape), config.data.pixel_dtype),
        "label": np.empty(shape, np.int32),
    }
    for row, seed in enumerate(seeds):
        batches = train_batches(records, with_seed(config, seed))
        for step in range(steps):
            batch = next(batches)
            for name, values in drawn.items():
                values[row, step] = batch[name]
        batches.close()
    return drawn


def train_seeds(
    config: Config,
    seeds: Sequence[int],
    batches: Batches,
    epoch_images: int,
    shares: Sequence[float],
    chunk: int,
    say: Callable[[str], None],
) -> list[Trained]:
    """Trains every seed from its own initial state, and keeps snapshots at fractions of the run.

    Args:
        config: config of the arm; its seed is ignored.
        batches: of `steps` or more, from `draw_batches`.
        epoch_images: number of images per epoch.
        shares: fractions of the run at which snapshots are kept.
        chunk: number of steps per device call.

    Raises:
        TrainingDiverged: if a loss is not finite.
    """
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    timetable = PretrainTimetable(config, epoch_images, config.hidden_units)
    init = build_init(config, model, method, optimizer)
    one_step = make_train_step(model, method, optimizer, config.optimizer.accumulation)
    names = tuple(batch_inputs(config, method))
    step = together(one_step, len(seeds), len(names))
    # predictions of a teacher that runs every n-th step are cached, and the batch is repeated
    repeats = config.teacher.every_steps if config.stored_scores else 1

    def steps_of(
        state: TrainState,
        batches: tuple[Array, ...],
        keys: Array,
        first: Array,
        count: Array,
        schedules: Any,
    ) -> tuple[TrainState, Any]:
        def body(index: Array, carry: Any) -> Any:
            state, sums = carry
            schedule = jax.tree.map(lambda x: x[index], schedules)
            inputs = [x[:, (first + index) // repeats] for x in batches]
            state, metrics = step(state, *inputs, keys, schedule)
            return state, jax.tree.map(jnp.add, sums, metrics)

        now = jax.tree.map(lambda x: x[0], schedules)
        shapes = jax.eval_shape(step, state, *(x[:, 0] for x in batches), keys, now)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state, sums = jax.lax.fori_loop(0, count, body, (state, zeros))
        return state, jax.tree.map(lambda x: x / count.astype(x.dtype), sums)

    run = jax.jit(steps_of, donate_argnums=0)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    start = Start(frozen=load_frozen(method))
    state = jax.jit(jax.vmap(init, in_axes=(0, None)))(keys, start)
    resident = tuple(jax.device_put(batches[name]) for name in names)

    next_stage = make_next_stage(build_fresh_params(model, method))
    renew = jax.jit(jax.vmap(next_stage, in_axes=(0, 0, None)), donate_argnums=0)
    kept = sorted({max(1, round(share * timetable.steps)) for share in shares})
    snapshots: list[tuple[int, TrainState]] = []
    curve: dict[str, list[np.ndarray]] = {}
    done, timed, seconds = 0, 0, 0.0
    for stop in _stops(timetable.steps, chunk, [*kept, *timetable.stages]):
        if stage := timetable.stages.get(done):
            state = renew(state, keys, np.int32(stage))
        began = time.perf_counter()
        schedules = [timetable.at(min(done + step, stop - 1)) for step in range(chunk)]
        stacked = jax.tree.map(lambda *x: np.stack(x), *schedules)
        count = np.int32(stop - done)  # traced: however many steps, one program
        state, metrics = run(state, resident, keys, np.int32(done), count, stacked)
        found = {name: np.asarray(value) for name, value in metrics.items()}
        if not all(np.isfinite(value).all() for value in found.values()):
            raise TrainingDiverged(
                f"the loss is not a number between steps {done} and {stop}: lower "
                "config.base.optimizer.base_learning_rate"
            )
        if done and stop - done == chunk:  # the first call compiles
            timed, seconds = timed + chunk, seconds + time.perf_counter() - began
        done = stop
        shown = {
            "step": np.full(len(seeds), done),
            "n_hard": np.full(len(seeds), stacked.n_hard[-1]),
        }
        for name, value in (shown | found).items():
            curve.setdefault(name, []).append(value)
        if done in kept:
            snapshots.append((done, jax.tree.map(np.asarray, without_optimizer(state))))
            say(f"step {done} of {timetable.steps}: loss {found['loss'].mean():.4f}")

    def of_seed(row: int) -> Trained:
        taken = [
            Snapshot(step, timetable.epoch(step), jax.tree.map(lambda x: x[row], state))
            for step, state in snapshots
        ]
        numbers = {name: [float(x[row]) for x in values] for name, values in curve.items()}
        return Trained(taken, numbers, timetable.steps, seconds / max(timed, 1))

    return [of_seed(row) for row in range(len(seeds))]


def together(step: Callable[..., Any], seeds: int, inputs: int = 1) -> Callable[..., Any]:
    """Builds the step of several seeds; everything but the schedule has a leading seed axis.

    Args:
        inputs: number of parts of a batch that the step takes.
    """
    if seeds > 1:
        return jax.vmap(step, in_axes=(0, *[0] * inputs, 0, None))

    # CPUs multiply batches of matrices one element at a time: a single seed keeps its matrices
    def alone(*of_seeds: Any) -> Any:
        *mapped, schedule = of_seeds
        first = jax.tree.map(lambda x: x[0], mapped)
        return jax.tree.map(lambda x: x[None], step(*first, schedule))

    return alone


def without_optimizer(state: TrainState) -> TrainState:
    """Returns the state without the optimizer, for measures."""
    return state.replace(optimizer=(), scores=None)


def _stops(steps: int, chunk: int, kept: Sequence[int]) -> list[int]:
    """Returns the ends of all chunks; every kept step, and every stage but the first, ends one."""
    return sorted({*range(chunk, steps, chunk), *kept, steps} - {0})
