"""Trains probes on features of augmented images, as in the papers: read it top to bottom."""

import functools
import json
import math
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax import random
from hpm_jax.config import Probe
from hpm_jax.convert.read import starting_weights
from hpm_jax.data.fingerprint import check_data
from hpm_jax.data.pipeline import BrokenImages, train_batches
from hpm_jax.data.sources import Records, Subset, hold_out
from hpm_jax.evaluation.accuracy import evaluate_split
from hpm_jax.evaluation.features import frozen_encoder, make_encode
from hpm_jax.evaluation.heads import attentive, linear
from hpm_jax.evaluation.probes import (
    ProbeState,
    Sweep,
    init_probe,
    make_probe_scores,
    make_probe_step,
)
from hpm_jax.models.flops import encoder_flops
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices, check_batch
from hpm_jax.run.loop import Experiment, Training
from hpm_jax.run.metrics import MetricsWriter
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.schedules import ProbeTimetable
from hpm_jax.step.state import Params, Start
from hpm_jax.storage import write
from hpm_jax.tasks.data import check_labels, load_data
from hpm_jax.tasks.finish import finish_run

EXPLANATION = (
    "All settings of the sweep are trained at once, on the same features of the same augmented "
    "images. The top-1 accuracy is that of one setting over the whole test split, every image "
    "counted once; it is the setting that does best on training images held out for this choice, "
    "or the only one (`config.choose_on=0`). `settings.json` has both accuracies of every setting."
)


@flax.struct.dataclass
class ProbingState:
    """The probes and their frozen encoder: the content of a checkpoint."""

    probe: ProbeState
    encoder: Params  # frozen

    @property
    def step(self) -> Array:
        """Number of steps taken."""
        return self.probe.step


def choose_split(records: Records, share: float) -> tuple[Records, Records]:
    """Splits the records into training and validation images; none for validation if 0."""
    if share == 0:
        return records, Subset(records, np.arange(0))
    return hold_out(records, share, "config.choose_on")


def probe(config: Probe, workdir: str | Path) -> int:
    """Starts or resumes the training of a sweep of probes.

    Args:
        config: from `hpm_jax.config.freeze`, completed by `hpm_jax.config.inherit`.
        workdir: folder of the run; if it holds a checkpoint, the run resumes from it.

    Returns:
        The exit code: 0 at the end of the run, 143 or 130 if a signal stopped it.
    """
    console = Console()
    # --- data, devices, weights: all are checked before anything is compiled
    devices = all_devices(config.run.fsdp)
    check_batch(config, devices)
    splits = load_data(config)
    check_labels(splits)
    learnt, chosen_on = choose_split(splits.train, config.choose_on)
    weights = starting_weights(config.init_from, config.weights, config.seed)
    encoder, encoder_params = frozen_encoder(
        weights, (config.data.frames, *config.data.image_size), config.features
    )
    workdir = open_workdir(workdir, config)
    check_data(workdir, splits, config.run.accept_new_data)
    timetable = ProbeTimetable(config.optimizer, len(learnt))

    # --- the frozen encoder and the heads
    optimizer, architecture = config.optimizer, weights.architecture
    rates = [rate * optimizer.batch_size / 256 for rate in optimizer.base_learning_rates]
    sweep = Sweep(tuple(rates), optimizer.weight_decays)
    head = linear if config.head == "linear" else attentive(architecture.heads)
    how = config.features.pool if config.head == "linear" else "tokens"
    encode = make_encode(encoder, config, architecture.patch, how)
    shape = (optimizer.batch_size, *config.data.view_shape)
    images = jax.ShapeDtypeStruct(shape, config.data.pixel_dtype)
    shape = jax.eval_shape(encode, encoder_params, images).shape[1:]
    learn = make_probe_step(head, sweep, optimizer.kind, optimizer.momentum)

    def init(root, start):
        key = random.stream(root, "init", 0)
        state = init_probe(head, sweep, optimizer.kind, shape, len(splits.classes), key)
        return ProbingState(state, start["params"])

    def step(state, images, labels, key, schedule):
        features = encode(state.encoder, images)
        after, metrics = learn(state.probe, features, labels, schedule.learning_rate)
        # settings of a sweep may diverge; the run continues while one is left
        lowest = jnp.min(jnp.where(jnp.isfinite(metrics["loss"]), metrics["loss"], jnp.inf))
        numbers = {"loss": lowest, "train_accuracy": metrics["accuracy"].max()}
        return ProbingState(after, state.encoder), numbers

    facts = [
        f"{config.weights} weights of {config.init_from}: width {architecture.width}, "
        f"{encoder.stack['depth']} of {architecture.depth} blocks, {config.features.dtype}",
        f"{len(learnt)} images to train on, {len(chosen_on)} to choose by, {len(splits.test)} to "
        f"test, {len(splits.classes)} classes",
        f"{config.head} head on {'x'.join(map(str, shape))} features, {optimizer.kind}, "
        f"{len(sweep.settings)} settings, {timetable.steps} steps of {optimizer.batch_size} images "
        f"on {devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))

    # --- model and training step
    patches = math.prod(encoder.grid)
    flops = encoder_flops(
        patches, architecture.values, architecture.width, encoder.stack["depth"], encoder.layout
    )
    experiment = Experiment(
        init=init,
        start=Start(params=encoder_params),
        step=step,
        inputs={
            "image": images,
            "label": jax.ShapeDtypeStruct((optimizer.batch_size,), np.int32),
        },
        batches=functools.partial(train_batches, learnt, config),
        broken=BrokenImages(learnt, config.data.max_broken, config.data.max_pixels),
        timetable=timetable,
        flops=lambda schedule: flops,
        summary=lambda numbers, schedule: f"best loss {numbers['loss']:.3f}",
        observe_every=config.evaluation.every_epochs,
        observe_first=False,
    )

    # --- scoring of all settings
    scores = make_probe_scores(head)
    score = jax.jit(
        lambda state, images, labels, counted: (
            scores(state.probe, encode(state.encoder, images), labels, counted),
            counted.sum(),
        ),
        out_shardings=devices.replicated,
    )

    def accuracies(state: ProbingState, records: Records) -> np.ndarray:
        correct, count = np.zeros(len(sweep.settings)), 0.0
        size = devices.round_up(config.evaluation.batch_size)
        of_batch = functools.partial(score, state)
        for (found, counted), unread in evaluate_split(of_batch, records, config, size, devices):
            for name in unread:
                console.say(f"cannot read {name}: left out of the evaluation")
            correct, count = correct + found, count + float(counted)
        return correct / max(count, 1.0)

    held_out_note = " (held out {:.2%})" if len(chosen_on) else ""

    def observe(state: ProbingState, writer: MetricsWriter) -> None:
        held_out, test = (accuracies(state, x) for x in (chosen_on, splits.test))
        best = int(held_out.argmax())  # the only one if nothing is held out
        rate, decay = sweep.settings[best]
        epoch = timetable.epoch(int(state.step))
        writer.write(int(state.step), {"epoch": epoch, "top1": test[best].item()})
        console.say(
            f"epoch {epoch:<6.4g} top-1 {test[best]:.2%}  learning rate {rate:g}, "
            f"weight decay {decay:g}" + held_out_note.format(held_out[best])
        )
        rows = zip(sweep.settings, held_out.tolist(), test.tolist(), strict=True)
        table = [
            {
                "learning_rate": s[0],
                "weight_decay": s[1],
                "held_out": h if len(chosen_on) else None,
                "test": t,
            }
            for s, h, t in rows
        ]
        text = json.dumps({"epoch": epoch, "chosen": best, "settings": table}, indent=2)
        if is_main():
            write(workdir / "settings.json", text + "\n")

    # --- train
    with Training(experiment, config.seed, config.run, workdir, devices, console) as training:
        for state in training:
            observe(state, training.writer)
    return finish_run(training.outcome, workdir, facts, EXPLANATION, console)
