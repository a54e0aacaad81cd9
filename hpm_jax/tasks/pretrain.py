"""Pre-training, from a config to a workdir: read it from top to bottom."""

import contextlib
import functools
import math
import shlex
import sys
import time
from pathlib import Path

import jax
import numpy as np

from hpm_jax import random
from hpm_jax.data.pipeline import BrokenImages, train_batches
from hpm_jax.data.sources import SOURCES, DataError, Splits
from hpm_jax.models.flops import step_flops
from hpm_jax.options import Config
from hpm_jax.tasks.observe import make_observer
from hpm_jax.training.build import build_method, build_model, build_optimizer
from hpm_jax.training.checkpoints import checkpoints
from hpm_jax.training.console import Console
from hpm_jax.training.devices import all_devices, check_batch
from hpm_jax.training.journal import Journal
from hpm_jax.training.metrics import MetricsWriter
from hpm_jax.training.schedules import Timetable
from hpm_jax.training.state import abstract_state, init_state
from hpm_jax.training.step import make_train_step
from hpm_jax.training.stopping import stop_requests
from hpm_jax.training.workdir import open_workdir
from hpm_jax.visualize.report import write_report


def pretrain(config: Config, workdir: str | Path) -> int:
    """Runs, or goes on with, a pre-training run.

    Args:
        config: from `hpm_jax.config.freeze`.
        workdir: the folder that the run leaves behind; where it holds a checkpoint, the run goes
            on from there.

    Returns:
        The exit code: 0 at the end of the run, 143 or 130 where a signal stopped it.
    """
    console = Console()
    with contextlib.ExitStack() as stack:
        # --- data, devices, workdir: whatever is wrong with them comes out before anything compiles
        devices = all_devices()
        check_batch(config, devices)
        splits = load_data(config)
        workdir = open_workdir(workdir, config)
        timetable = Timetable(config, len(splits.train), config.hidden)
        facts = describe(config, splits, timetable, devices.count)
        console.say("\n".join(facts))

        # --- model, method, and a state that may come from a checkpoint
        model, method = build_model(config), build_method(config)
        optimizer = build_optimizer(config)
        root = jax.random.key(config.seed)
        init = functools.partial(init_state, model, optimizer, teacher=config.teacher.keep)
        abstract = abstract_state(init, devices.replicated)
        saved = stack.enter_context(
            checkpoints(workdir / "checkpoints", config.run.keep_checkpoints)
        )
        state = saved.restore(abstract, console.say)
        if state is None:
            state = jax.jit(init, out_shardings=devices.replicated)(random.stream(root, "init", 0))
        done = int(state.step)

        # --- the data starts to flow while the step is compiled
        batches = train_batches(splits.train, config, done)
        stack.callback(batches.close)
        broken = BrokenImages(splits.train, config.data.max_broken)

        # --- the step, compiled once: it cannot recompile, only refuse
        began = time.perf_counter()
        shape = (config.optimizer.batch_size, *config.data.image_size, config.data.channels)
        images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=devices.batch)
        jitted = jax.jit(
            make_train_step(model, method, optimizer, config.optimizer.accumulation),
            donate_argnums=0,
            out_shardings=devices.replicated,
        )
        train_step = jitted.lower(abstract, images, root, timetable.at(0)).compile()
        console.say(f"compiled the step in {time.perf_counter() - began:.0f} s")

        # --- what is written down and looked at on the way
        writer = MetricsWriter(workdir, done)
        stack.callback(writer.close)
        flops = step_flops(model, config.hidden, method.strategy.asks_teacher)
        journal = Journal(timetable, flops, writer, console, config.run.log_every_steps)
        observe = make_observer(
            config, workdir, model, method, splits, devices, timetable, writer, console
        )
        observed_at = milestones(timetable, config.evaluation.every_epochs)
        saved_at = milestones(timetable, config.run.checkpoint_every_epochs)
        if done == 0 and observed_at:
            observe(state)
        elif done:
            console.say(f"going on from step {done} of {timetable.steps}")
        stopping = stack.enter_context(stop_requests())
        stack.callback(console.stop)
        console.start(timetable.steps, done)

        # --- the loop
        for step in range(done, timetable.steps):
            began = time.perf_counter()
            batch = next(batches)
            journal.meter.waited(time.perf_counter() - began)
            for name in broken.add(batch["broken"]):
                console.say(f"cannot read {name}: another image takes its place")

            schedule = timetable.at(step)
            state, metrics = train_step(state, devices.put(batch["image"]), root, schedule)
            done = step + 1
            journal.step(done, schedule, metrics)

            if done in observed_at or done in saved_at or stopping.signal:
                journal.read()  # nothing is measured or saved of a state that is not finite
            began = time.perf_counter()
            if done in observed_at:
                observe(state)
            if done in saved_at or stopping.signal:
                saved.save(state)
            journal.meter.paused(time.perf_counter() - began)
            if stopping.signal:
                break
        console.stop()
        saved.wait()

        # --- what came out
        seconds = time.strftime("%H:%M:%S", time.gmtime(journal.seconds))
        facts += [
            f"{done} of {timetable.steps} steps in {seconds} (compilation and evaluation included)",
            f"MFU is measured from {journal.peak / 1e12:.3g} TFLOP/s ({journal.peak_source})",
        ]
        if broken.names:
            names = ", ".join(broken.names.values())
            facts.append(f"{len(broken.names)} unreadable images: {names}")
        write_report(workdir, shlex.join(["python", "-m", "hpm_jax.main", *sys.argv[1:]]), facts)
        if stopping.signal and done < timetable.steps:
            console.say(
                f"stopped by {stopping.signal.name} after step {done}; everything is saved: "
                "the same command goes on from there"
            )
            return stopping.exit_code
        console.say(f"done: read {workdir / 'report.md'}")
        return 0


def load_data(config: Config) -> Splits:
    """The splits of a config's source.

    Raises:
        DataError: where there are fewer images than one batch needs.
    """
    splits = SOURCES[config.data.source](config.data)
    if len(splits.train) < config.optimizer.batch_size:
        raise DataError(
            f"{len(splits.train)} training images are fewer than one batch: set "
            f"--config.optimizer.batch_size={len(splits.train)} or less, or add images."
        )
    return splits


def milestones(timetable: Timetable, every: float) -> set[int]:
    """The steps that end a multiple of `every` epochs, and the last; none where `every` is 0."""
    if not every:
        return set()
    count = math.floor(timetable.epoch(timetable.steps) / every)
    return {timetable.step_of(every * index) for index in range(1, count + 1)} | {timetable.steps}


def describe(config: Config, splits: Splits, timetable: Timetable, devices: int) -> list[str]:
    """What is about to run, in a few lines."""
    model, mask = config.model, config.mask
    labels = f"{len(splits.classes)} classes" if splits.classes else "no labels"
    height, width = config.data.image_size
    _, h, w = config.grid
    masks = f"{mask.strategy} masks, {config.hidden} of {config.patches} patches hidden"
    if timetable.at(timetable.steps - 1).n_hard:
        share = f"{mask.hard_start:.0%} to {mask.hard_end:.0%}"
        masks += f", {share} of them hard"
    kind = jax.devices()[0].device_kind
    where = {"tfds": config.data.name, "folder": config.data.path}.get(config.data.source, "")
    return [
        f"data: {config.data.source} {where}".rstrip()
        + f", {len(splits.train)} images to train on and {len(splits.test)} to test, {labels}",
        f"model: width {model.width}, {model.depth} blocks, {height} x {width} pixels in "
        f"{h} x {w} patches, {model.dtype}",
        f"method: {masks}; target {config.target}; ranking {config.ranking.loss}",
        f"run: {config.optimizer.epochs} epochs, {timetable.steps} steps of "
        f"{config.optimizer.batch_size} images on {devices} x {kind}",
    ]
