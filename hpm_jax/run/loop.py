"""The loop that every training task runs: restore, compile, step, look, save, stop."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from hpm_jax.config import Run
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.run.checkpoints import check_finite, checkpoints
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices
from hpm_jax.run.journal import Journal
from hpm_jax.run.metrics import open_writer
from hpm_jax.run.stopping import StopRequest, stop_requests
from hpm_jax.step.schedules import Timetable
from hpm_jax.step.state import Start, abstract_state

State = Any


class Experiment(NamedTuple):
    """What a task trains, as the loop needs it."""

    init: Callable[[jax.Array, Any], State]  # (key, start) -> state with a `step`, to be jitted
    start: Start  # weights to start from, as `init` takes them
    step: Callable[..., tuple[State, Any]]  # (state, *inputs, key, schedule) -> (state, metrics)
    inputs: dict[str, jax.ShapeDtypeStruct]  # the parts of a batch that the step takes, in order
    batches: Callable[[int, np.ndarray], Any]  # of the first step and of this process's rows
    broken: BrokenImages  # which of them cannot be read
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


class Training:
    """A run in progress: `for state in training` trains, and gives each state to be measured.

    Entering restores the newest checkpoint, or makes the first state, and compiles the step;
    leaving ends what runs in the background, however the block ends. What is measured belongs to
    the task; checkpoints, the lines of `metrics.jsonl`, the bar and stops are here.
    """

    outcome: Outcome  # once the loop has ended

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        run: Run,
        workdir: Path,
        devices: Devices,
        console: Console,
    ):
        """`seed` is of the root key, which `experiment.init` and every step take."""
        self.experiment, self.run, self.root = experiment, run, jax.random.key(seed)
        self.workdir, self.devices, self.console = workdir, devices, console
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    @property
    def timetable(self) -> Timetable:
        """Steps, epochs and schedules."""
        return self.experiment.timetable

    def _open(self, stack: contextlib.ExitStack) -> None:
        experiment, devices, console = self.experiment, self.devices, self.console
        # --- a state that may come from a checkpoint
        init, start = experiment.init, experiment.start
        abstract = abstract_state(init, self.root, start, place=devices.shardings)
        folder = self.workdir / "checkpoints"
        self._saved = stack.enter_context(checkpoints(folder, self.run.keep_checkpoints))
        state = self._saved.restore(abstract, console.say, start.get("frozen"))
        if state is None:
            placement = jax.tree.map(lambda x: x.sharding, abstract)
            state = jax.jit(init, out_shardings=placement)(self.root, start)
        self._state, self._done = state, int(state.step)

        # --- the data starts to flow while the step is compiled
        rows = devices.rows(self.timetable.batch_size)
        self._batches = experiment.batches(self._done, rows)
        stack.callback(self._batches.close)

        # --- the step, compiled once: it cannot recompile, only refuse
        began = time.perf_counter()
        inputs = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.batch)
            for x in experiment.inputs.values()
        ]
        jitted = devices.jit_step(experiment.step, abstract)
        lowered = jitted.lower(abstract, *inputs, self.root, self.timetable.at(0))
        self._step = lowered.compile()
        console.say(f"compiled the step in {time.perf_counter() - began:.0f} s")

        # --- what is written down on the way
        self.writer = open_writer(self.workdir, self._done, self.run.wandb)
        stack.callback(self.writer.close)
        self._journal = Journal(
            self.timetable,
            experiment.flops,
            experiment.summary,
            self.writer,
            console,
            self.run.log_every_steps,
        )

    def __iter__(self) -> Iterator[State]:
        """Trains to the end, or until a signal asks to stop; may be called once.

        Raises:
            TrainingDiverged: where the loss is not a number; nothing of that state is saved.
        """
        experiment, timetable, console = self.experiment, self.timetable, self.console
        journal, state, done = self._journal, self._state, self._done
        del self._state  # the first step takes its memory
        observed_at = timetable.milestones(experiment.observe_every)
        saved_at = timetable.milestones(self.run.checkpoint_every_epochs)
        if done == 0 and observed_at and experiment.observe_first:
            yield state
        elif done:
            console.say(f"going on from step {done} of {timetable.steps}")
        stopping = self._stack.enter_context(stop_requests())
        self._stack.callback(console.stop)
        console.start(timetable.steps, done)

        for index in range(done, timetable.steps):
            began = time.perf_counter()
            batch = next(self._batches)
            journal.meter.waited(time.perf_counter() - began)
            for name in experiment.broken.add(batch["broken"]):
                console.say(f"cannot read {name}: another image takes its place")

            schedule = timetable.at(index)
            arrays = [self.devices.put(batch[name]) for name in experiment.inputs]
            state, metrics = self._step(state, *arrays, self.root, schedule)
            done = index + 1
            journal.step(done, schedule, metrics)

            stop = stopping.asked(done)
            if done in observed_at or done in saved_at or stop:
                journal.read()  # nothing is measured or saved of a state that is not finite
            began = time.perf_counter()
            if done in observed_at:
                yield state
            if done in saved_at or stop:
                self.writer.flush()  # a run that goes on from here lacks no line
                self._saved.save(state)
            journal.meter.paused(time.perf_counter() - began)
            if stop:
                break
        console.stop()
        self._saved.wait()
        check_finite(state)  # also of a run that had ended before, which saves nothing more
        self.outcome = self._end(done, stopping)

    def _end(self, done: int, stopping: StopRequest) -> Outcome:
        """How it went."""
        journal, steps, broken = self._journal, self.timetable.steps, self.experiment.broken
        seconds = time.strftime("%H:%M:%S", time.gmtime(journal.seconds))
        facts = [
            f"{done} of {steps} steps in {seconds} (compilation and evaluation included)",
            f"MFU is measured from {journal.peak / 1e12:.3g} TFLOP/s ({journal.peak_source})",
        ]
        if broken.names:
            names = ", ".join(broken.names.values())
            facts.append(f"{len(broken.names)} unreadable images: {names}")
        if done == steps:
            stopping.signal = None  # it came too late to stop anything
        elif stopping.signal:
            self.console.say(
                f"stopped by {stopping.signal.name} after step {done}; everything is saved: "
                "the same command goes on from there"
            )
        return Outcome(done, stopping, facts)
