"""The loop of every training task: restore, compile, step, evaluate, save, stop."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from hpm_jax.config import Guard, Run
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.reading import Reader
from hpm_jax.run.ahead import compiler_threads
from hpm_jax.run.checkpoints import check_finite, checkpoints
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices
from hpm_jax.run.divergence import Divergence, GoBack, way_out
from hpm_jax.run.journal import Journal
from hpm_jax.run.metrics import open_writer
from hpm_jax.run.stopping import StopRequest, stop_requests
from hpm_jax.run.throughput import peak_flops
from hpm_jax.step.guard import guarded, pass_over, with_history
from hpm_jax.step.schedules import Timetable
from hpm_jax.step.stages import NextStage
from hpm_jax.step.state import Start, abstract_state

State = Any


class Experiment(NamedTuple):
    """The parts of a training task that the loop needs."""

    init: Callable[[jax.Array, Any], State]  # (key, start) -> state with a `step`, to be jitted
    start: Start  # weights to start from, as `init` takes them
    step: Callable[..., tuple[State, Any]]  # (state, *inputs, key, schedule) -> (state, metrics)
    inputs: dict[str, jax.ShapeDtypeStruct]  # the parts of a batch that the step takes, in order
    batches: Callable[[int, np.ndarray], Reader]  # (first step, this process's rows) -> reader
    broken: BrokenImages  # the unreadable images
    timetable: Timetable
    flops: Callable[[Any], float]  # schedule -> operations per image
    summary: Callable[[dict[str, float], Any], str]  # formats a step's numbers for the console
    observe_every: float  # epochs
    observe_first: bool  # also before the first step
    next_stage: NextStage | None = None  # what happens at the steps `timetable.stages`
    guard: Guard | None = None  # for a `TrainState`; without one, divergence ends the run


class Outcome(NamedTuple):
    """The result of the loop."""

    done: int  # number of steps taken
    stopped: StopRequest
    facts: list[str]  # sentences for the report

    @property
    def unfinished(self) -> bool:
        """Whether a signal stopped the run before its end."""
        return bool(self.stopped.signal)

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0 at the end of the run, 143 or 130 if a signal stopped it."""
        return self.stopped.exit_code if self.unfinished else 0


class Training:
    """A run in progress: `for state in training` trains, and yields each state to evaluate.

    Entering the context restores the newest checkpoint, or makes the first state, while the step
    is compiled in a thread; the first evaluation does not wait for it. Leaving the context ends
    background work, however the block ends. The task defines the evaluation; checkpoints, the lines
    of `metrics.jsonl`, the progress bar and stops are handled here.

    Attributes:
        compiler: threads for `compile_ahead`, which compile the step first.
        shapes: shapes, dtypes and shardings of the states that are yielded.
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
        """Takes the `seed` of the root key, which `experiment.init` and every step use."""
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
        """The steps, epochs and schedules of the run."""
        return self.experiment.timetable

    @property
    def goes_on(self) -> bool:
        """Whether steps have been taken before: a checkpoint was restored, or training began."""
        return self._done > 0

    def _open(self, stack: contextlib.ExitStack) -> None:
        experiment, devices, console = self.experiment, self.devices, self.console
        guard = experiment.guard
        self._init = with_history(experiment.init) if guard else experiment.init
        self.shapes = abstract_state(
            self._init, self.root, experiment.start, place=devices.shardings
        )
        abstract, folder = self.shapes, self.workdir / "checkpoints"
        self._saved = stack.enter_context(checkpoints(folder, self.run.keep_checkpoints))
        self._divergence = Divergence(
            guard,
            way_out(self.timetable.optimizer),
            self.workdir,
            experiment.broken.records,
            console.say,
        )
        peak_flops()  # measured before other threads use the cores

        # --- the step, compiled once: other shapes are an error, not a recompilation
        step = experiment.step
        if guard and guard.watches:
            step = guarded(step, guard.spike)
        inputs = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.batch)
            for x in experiment.inputs.values()
        ]
        began = time.perf_counter()
        jitted = devices.jit_step(step, abstract)
        lowered = jitted.lower(abstract, *inputs, self.root, self.timetable.at(0))

        def compile_step() -> tuple[Any, float]:
            return lowered.compile(), time.perf_counter() - began

        self.compiler = compiler_threads()
        # an error does not wait for the compiler
        stack.callback(self.compiler.shutdown, wait=False, cancel_futures=True)
        self._compiling: Future[tuple[Any, float]] = self.compiler.submit(compile_step)
        if experiment.next_stage:
            placement = jax.tree.map(lambda x: x.sharding, abstract)
            self._next_stage = jax.jit(
                experiment.next_stage, out_shardings=placement, donate_argnums=0
            )

        # --- meanwhile the state, the data and the metrics
        self._begin()
        stack.callback(lambda: self._batches.close())
        self._write_from(self._done)
        stack.callback(lambda: self.writer.close())

    def _begin(self) -> None:
        """Restores the newest saved state, or makes the first, and starts the data there."""
        experiment, abstract = self.experiment, self.shapes
        start = experiment.start
        state = self._saved.restore(abstract, self.console.say, start.get("frozen"))
        if state is None:
            placement = jax.tree.map(lambda x: x.sharding, abstract)
            init = jax.jit(
                self._init, out_shardings=placement, compiler_options=self.devices.compile_once
            )
            state = init(self.root, start)
        self._state, self._done = state, int(state.step)
        rows = self.devices.rows(self.timetable.batch_size)
        self._batches = experiment.batches(self._done, rows)

    def _write_from(self, done: int) -> None:
        """Opens the metrics so that steps after `done` are rewritten."""
        self.writer = open_writer(self.workdir, done, self.run.wandb, self.console.say)
        self._journal = Journal(
            self.timetable,
            self.experiment.flops,
            self.experiment.summary,
            self.writer,
            self.console,
            self.run.log_every_steps,
            lambda step, numbers, batch: self._divergence(step, numbers, batch, self._state),
        )

    def _go_back(self) -> None:
        """Restarts from the last checkpoint without recompiling."""
        self._saved.wait()
        self._batches.close()
        self.writer.close()
        self._state = None  # the devices need not hold two
        self._begin()
        self._write_from(self._done)

    def __iter__(self) -> Iterator[State]:
        """Trains to the end, or until a signal requests a stop; may be called once.

        Raises:
            TrainingDiverged: if training diverges and `config.guard` has no remedy; that state is
                not saved.
        """
        timetable, console, done = self.timetable, self.console, self._done
        if done == 0 and self.experiment.observe_first and self._observed_at:
            yield self._state
        elif done:
            console.say(f"going on from step {done} of {timetable.steps}")
        self._step, seconds = self._compiling.result()
        console.say(f"compiled the step in {seconds:.0f} s")
        stopping = self._stack.enter_context(stop_requests(self.run.grace_seconds))
        self._stack.callback(console.stop)
        console.start(timetable.steps, done)
        while True:
            try:
                yield from self._train(stopping)
                break
            except GoBack:
                self._go_back()
        console.stop()
        self._saved.wait()
        check_finite(self._state)  # also for a run that had already ended
        self.outcome = self._end(self._done, stopping)

    @property
    def _observed_at(self) -> frozenset[int]:
        return frozenset(self.timetable.milestones(self.experiment.observe_every))

    def _train(self, stopping: StopRequest) -> Iterator[State]:
        """Trains from the current state to the end, or to a stop.

        Raises:
            GoBack: if training has to continue from the last checkpoint.
        """
        experiment, timetable, console = self.experiment, self.timetable, self.console
        journal = self._journal
        observed_at = self._observed_at
        saved_at = timetable.milestones(self.run.checkpoint_every_epochs)
        for index in range(self._done, timetable.steps):
            began = time.perf_counter()
            batch = self._batches.take(lambda: stopping.now)
            if batch is None:  # a stop does not wait for a stalled disk
                self._save()
                break
            journal.meter.waited(time.perf_counter() - began)
            for name in experiment.broken.add(batch["broken"]):
                console.say(f"cannot read {name}: another image takes its place")

            if stage := timetable.stages.get(index):
                self._state = self._next_stage(self._state, self.root, np.int32(stage))
                console.say(f"stage {stage} begins: the teacher gets the student's weights")
            self._done = done = index + 1
            if self._divergence.passes_over(done):
                self._state = pass_over(self._state)
                journal.pass_over(done)
            else:
                schedule = timetable.at(index)
                arrays = [self.devices.put(batch[name]) for name in experiment.inputs]
                self._state, metrics = self._step(self._state, *arrays, self.root, schedule)
                journal.step(done, schedule, metrics, batch)

            stop = stopping.asked(done)
            if done in observed_at or done in saved_at or stop:
                journal.read()  # a state that is not finite is neither evaluated nor saved
            began = time.perf_counter()
            if done in observed_at:
                yield self._state
            if done in saved_at or stop:
                self._save()
            journal.meter.paused(time.perf_counter() - began)
            if stop:
                break
        journal.read()  # a run whose last step diverges has not ended

    def _save(self) -> None:
        """Starts to write a checkpoint, after all earlier metrics are on disk."""
        self._journal.read()
        self.writer.flush()  # a run that resumes here lacks no line
        self._saved.save(self._state)

    def _end(self, done: int, stopping: StopRequest) -> Outcome:
        """Returns the outcome."""
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
            stopping.signal = None  # too late to stop anything
        elif stopping.signal:
            self.console.say(
                f"stopped by {stopping.signal.name} after step {done}; everything is saved: "
                "the same command goes on from there"
            )
        return Outcome(done, stopping, facts)
