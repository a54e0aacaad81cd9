"""The loop that every training task runs: restore, compile, step, look, save, stop."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.config import Run
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices
from hpm_jax.run.journal import Journal
from hpm_jax.run.metrics import MetricsWriter, open_writer
from hpm_jax.run.stopping import StopRequest, stop_requests
from hpm_jax.step.schedules import Timetable
from hpm_jax.step.state import abstract_state

State = Any


class Experiment(NamedTuple):
    """What a task trains, as the loop needs it."""

    init: Callable[[jax.Array, Any], State]  # (key, start) -> state with a `step`, to be jitted
    start: Any  # weights to start from, as `init` takes them; {} for none
    step: Callable[..., tuple[State, Any]]  # (state, *inputs, key, schedule) -> (state, metrics)
    inputs: dict[str, jax.ShapeDtypeStruct]  # the parts of a batch that the step takes, in order
    batches: Callable[[int, np.ndarray], Any]  # of the first step and of this process's rows
    timetable: Timetable
    flops: Callable[[Any], float]  # schedule -> operations for one image
    summary: Callable[[dict[str, float], Any], str]  # a step's numbers, for the console
    observe_every: float  # epochs
    observe_first: bool  # also before the first step


class Outcome(NamedTuple):
    """How the loop ended."""

    done: int  # steps taken
    stopped: StopRequest
    facts: list[str]  # sentences for the report

    @property
    def unfinished(self) -> bool:
        """Whether a signal ended it before its time."""
        return bool(self.stopped.signal)

    @property
    def exit_code(self) -> int:
        """Of the command: 0 at the end of the run, 143 or 130 where a signal stopped it."""
        return self.stopped.exit_code if self.unfinished else 0


def train(
    experiment: Experiment,
    make_observer: Callable[[MetricsWriter], Callable[[State], None]],
    broken: BrokenImages,
    seed: int,
    run: Run,
    workdir: Path,
    devices: Devices,
    console: Console,
) -> Outcome:
    """Trains from the newest checkpoint of the workdir, or from the start, to the end.

    Args:
        make_observer: of a writer, a function that measures a state and writes what it finds.
        seed: of the root key, which `experiment.init` and every step take.

    Raises:
        TrainingDiverged: where the loss is not a number; nothing of that state is saved.
    """
    timetable, root = experiment.timetable, jax.random.key(seed)
    with contextlib.ExitStack() as stack:
        # --- a state that may come from a checkpoint
        init, start = experiment.init, experiment.start
        abstract = abstract_state(init, root, start, place=devices.shardings)
        placement = jax.tree.map(lambda x: x.sharding, abstract)
        saved = stack.enter_context(checkpoints(workdir / "checkpoints", run.keep_checkpoints))
        state = saved.restore(abstract, console.say)
        if state is None:
            state = jax.jit(init, out_shardings=placement)(root, start)
        elif getattr(abstract, "frozen", None) is not None:
            state = state.replace(frozen=jax.device_put(start["frozen"], placement.frozen))
        done = int(state.step)

        # --- the data starts to flow while the step is compiled
        batches = experiment.batches(done, devices.rows(timetable.batch_size))
        stack.callback(batches.close)

        # --- the step, compiled once: it cannot recompile, only refuse
        began = time.perf_counter()
        inputs = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.batch)
            for x in experiment.inputs.values()
        ]
        jitted = jax.jit(
            experiment.step, donate_argnums=0, out_shardings=(placement, devices.replicated)
        )
        step = jitted.lower(abstract, *inputs, root, timetable.at(0)).compile()
        console.say(f"compiled the step in {time.perf_counter() - began:.0f} s")

        # --- what is written down and looked at on the way
        writer = open_writer(workdir, done, run.wandb)
        stack.callback(writer.close)
        journal = Journal(
            timetable,
            experiment.flops,
            experiment.summary,
            writer,
            console,
            run.log_every_steps,
        )
        observe = make_observer(writer)
        observed_at = timetable.milestones(experiment.observe_every)
        saved_at = timetable.milestones(run.checkpoint_every_epochs)
        if done == 0 and observed_at and experiment.observe_first:
            observe(state)
        elif done:
            console.say(f"going on from step {done} of {timetable.steps}")
        stopping = stack.enter_context(stop_requests())
        stack.callback(console.stop)
        console.start(timetable.steps, done)

        # --- the loop
        for index in range(done, timetable.steps):
            began = time.perf_counter()
            batch = next(batches)
            journal.meter.waited(time.perf_counter() - began)
            for name in broken.add(batch["broken"]):
                console.say(f"cannot read {name}: another image takes its place")

            schedule = timetable.at(index)
            arrays = [devices.put(batch[name]) for name in experiment.inputs]
            state, metrics = step(state, *arrays, root, schedule)
            done = index + 1
            journal.step(done, schedule, metrics)

            stop = stopping.asked(done)
            if done in observed_at or done in saved_at or stop:
                journal.read()  # nothing is measured or saved of a state that is not finite
            began = time.perf_counter()
            if done in observed_at:
                observe(state)
            if done in saved_at or stop:
                writer.flush()  # a run that goes on from here lacks no line
                saved.save(state)
            journal.meter.paused(time.perf_counter() - began)
            if stop:
                break
        console.stop()
        saved.wait()

        # --- how it went
        seconds = time.strftime("%H:%M:%S", time.gmtime(journal.seconds))
        facts = [
            f"{done} of {timetable.steps} steps in {seconds} (compilation and evaluation included)",
            f"MFU is measured from {journal.peak / 1e12:.3g} TFLOP/s ({journal.peak_source})",
        ]
        if broken.names:
            names = ", ".join(broken.names.values())
            facts.append(f"{len(broken.names)} unreadable images: {names}")
        if done == timetable.steps:
            stopping.signal = None  # it came too late to stop anything
        elif stopping.signal:
            console.say(
                f"stopped by {stopping.signal.name} after step {done}; everything is saved: "
                "the same command goes on from there"
            )
        return Outcome(done, stopping, facts)
