"""Fine-tunes a classifier from pre-trained weights: read it from top to bottom."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from hpm_jax.config import ConfigError, Finetune
from hpm_jax.convert.assign import assign
from hpm_jax.convert.read import read_weights
from hpm_jax.data.fingerprint import check_data
from hpm_jax.data.pipeline import BrokenImages, train_batches
from hpm_jax.data.rand_augment import parse_policy
from hpm_jax.data.sources import Splits
from hpm_jax.evaluation.accuracy import AccuracyMeter
from hpm_jax.evaluation.precision import PrecisionMeter
from hpm_jax.models import Classifier
from hpm_jax.models.flops import classifier_flops
from hpm_jax.models.positions import encoder_on_grid
from hpm_jax.run.build import (
    build_classifier,
    build_finetune_init,
    build_optimizer,
    build_recipe,
)
from hpm_jax.run.checkpoints import Checkpoints, checkpoints
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices, all_devices, check_batch
from hpm_jax.run.frozen import check_frozen
from hpm_jax.run.loop import Experiment, Training
from hpm_jax.run.metrics import read_lines
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.finetune_step import make_finetune_step
from hpm_jax.step.optimizer import layer_scales, layerwise
from hpm_jax.step.schedules import FinetuneTimetable
from hpm_jax.step.state import Params, Start, TrainState, param_shapes
from hpm_jax.storage import write
from hpm_jax.tasks.data import check_labels, check_many_labels, load_data
from hpm_jax.tasks.finish import finish_run

HEAD = ("head", "norm")  # parts that fine-tuning always initialises
EXPLANATION = (
    "Accuracy is over the whole test split, every image counted once; of images with any number of "
    "classes it is mean average precision. `checkpoints/` has the last state and `best/` the one "
    "with the highest accuracy (top-1), which was chosen on the images that it is measured on: "
    "compare runs by the last. Training images are augmented and mixed, so their cross-entropy "
    "stays above that of the test split for long."
)


def finetune(config: Finetune, workdir: str | Path) -> int:
    """Starts or resumes a fine-tuning run.

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
    many = config.labels == "many"
    (check_many_labels if many else check_labels)(splits)
    model = build_classifier(config, len(splits.classes), devices.gather)
    start = Start(params=load_start(config, model, console.say))
    start["frozen"] = freeze_start(config, start["params"])
    workdir = open_workdir(workdir, config)
    check_data(workdir, splits, config.run.accept_new_data)
    check_frozen(workdir, start["frozen"])
    if is_main():
        write(workdir / "classes.json", json.dumps(splits.classes, indent=0) + "\n")
    timetable = FinetuneTimetable(config, len(splits.train))
    facts = describe(config, splits, timetable, devices)
    console.say("\n".join(facts))

    # --- model and training step
    optimizer = build_optimizer(config)
    scales = layer_scales(param_shapes(model), config.optimizer.layer_decay)
    step = make_finetune_step(
        model,
        build_recipe(config),
        optimizer,
        config.optimizer.accumulation,
        layerwise(scales),
    )

    batch = config.optimizer.batch_size
    policy = parse_policy(config.augment.policy) if config.augment.policy else None
    passes = sum(term.forward_passes for term in config.regularize.terms)
    flops = classifier_flops(model, config.regularize.mask_sub, passes) * config.data.clips
    experiment = Experiment(
        init=build_finetune_init(config, model, optimizer),
        start=start,
        step=step,
        inputs={
            "image": jax.ShapeDtypeStruct(
                (batch, *config.data.train_shape), config.data.pixel_dtype
            ),
        }
        | label_shapes(config, len(splits.classes)),
        batches=functools.partial(
            train_batches,
            splits.train,
            config,
            policy=policy,
            color_jitter=config.augment.color_jitter,
        ),
        broken=BrokenImages(splits.train, config.data.max_broken, config.data.max_pixels),
        timetable=timetable,
        flops=lambda schedule: flops,
        summary=lambda numbers, schedule: f"loss {numbers['loss']:.3f}",
        observe_every=config.evaluation.every_epochs,
        observe_first=False,
        guard=config.guard,
    )
    meters = {"one": AccuracyMeter, "many": PrecisionMeter}
    meter = meters[config.labels](config, model, splits.test, devices, config.patch_size)

    # --- train, score the test split, and keep the best
    with (
        checkpoints(workdir / "best", keep=1) as best,
        Training(experiment, config.seed, config.run, workdir, devices, console) as training,
    ):
        observe = observe_accuracy(meter, timetable, best, training)
        for state in training:
            observe(state)
    if meter.unread:
        facts.append(f"left out of the test split, unreadable: {', '.join(meter.unread)}")
    return finish_run(training.outcome, workdir, facts, EXPLANATION, console)


def label_shapes(config: Finetune, classes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the labels of a batch that the step takes, by their name in it."""
    batch = config.optimizer.batch_size
    if config.labels == "many":
        return {"labels": jax.ShapeDtypeStruct((batch, classes), np.uint8)}
    return {"label": jax.ShapeDtypeStruct((batch,), np.int32)}


def load_start(config: Finetune, model: Classifier, say: Callable[[str], None]) -> Params:
    """Returns the weights of `config.init_from` that the classifier uses; {} for random ones.

    The head is always new, and so is the norm of mean pooling, unless `config.model.keep_norm`
    starts it as the pre-trained last norm; positions are resized to the grid.

    Raises:
        ConfigError: if the norm to keep is not among the weights.
    """
    if config.weights == "random":
        say("weights: random")
        return {}
    weights = read_weights(config.init_from, config.weights)
    before, after = weights.architecture.grid, model.grid
    if before != after:
        old, new = (" x ".join(map(str, grid[grid[0] == 1 :])) for grid in (before, after))
        say(f"positions resized from {old} to {new}")
    encoder = encoder_on_grid(weights.params["encoder"], before, after)
    given = {name: part for name, part in weights.params.items() if name not in HEAD}
    given["encoder"] = encoder
    if config.model.keep_norm:
        given["norm"] = last_norm(weights.params, config.init_from)
    shapes = param_shapes(model)
    unneeded = given.keys() - shapes.keys()  # decoders, heads of loss terms, and others
    start, matching = assign(
        shapes,
        given,
        new=tuple(name for name in HEAD if name not in given),
        dropped=(*unneeded, "encoder/transformer/norm"),
    )
    say(matching.sentence(config.init_from))
    if "head" in weights.params:
        say("these weights have a head of their own, which is left: a new one is trained")
    return start


def freeze_start(config: Finetune, start: Params) -> dict[str, Params]:
    """Returns the frozen weights of every regularizer that has some, by name."""
    frozen = {term.name: term.freeze(start) for term in config.regularize.terms}
    return {name: weights for name, weights in frozen.items() if weights is not None}


def last_norm(params: Params, source: str) -> Params:
    """Returns the norm after the last block, or after pooling, of weights from `source`."""
    norm = params["encoder"]["transformer"].get("norm") or params.get("norm")
    if norm is None:
        raise ConfigError(
            f"config.model.keep_norm = True, and {source} has no norm after its last block: "
            "--config.model.keep_norm=False starts a new one"
        )
    return norm


def observe_accuracy(
    meter: AccuracyMeter | PrecisionMeter,
    timetable: FinetuneTimetable,
    best: Checkpoints,
    training: Training,
) -> Callable[[TrainState], None]:
    """Builds `state -> None`, which scores the test split and keeps the best state.

    With a moving average of the weights, both are scored, and the average selects the best state.
    """
    averaged = timetable.average > 0
    deciding = f"average_{meter.deciding}" if averaged else meter.deciding
    lines = read_lines(training.writer.path)
    highest = max((line[deciding] for line in lines if deciding in line), default=-1)

    def observe(state: TrainState) -> None:
        nonlocal highest
        step = int(state.step)
        epoch = timetable.epoch(step)
        numbers = meter(state.params)
        if averaged:
            numbers |= {f"average_{name}": value for name, value in meter(state.teacher).items()}
        training.writer.write(step, {"epoch": epoch} | numbers)
        training.console.say(
            f"epoch {epoch:<6.4g} {meter.sentence(numbers)}"
            + (f"  averaged weights {numbers[deciding]:.2%}" if averaged else "")
        )
        if numbers[deciding] > highest:
            highest = numbers[deciding]
            best.save(state)

    return observe


def describe(
    config: Finetune, splits: Splits, timetable: FinetuneTimetable, devices: Devices
) -> list[str]:
    """Describes the run in a few lines."""
    model, optimizer = config.model, config.optimizer
    height, width = config.data.image_size
    return [
        f"data: {config.data.source}, {len(splits.train)} images to train on and "
        f"{len(splits.test)} to test, {len(splits.classes)} classes",
        f"model: width {model.width}, {model.depth} blocks, {height} x {width} pixels, "
        f"{model.pool} pooling, {model.dtype}; {config.weights} weights of {config.init_from}",
        f"run: {optimizer.epochs} epochs, {timetable.steps} steps of {optimizer.batch_size} images "
        f"on {devices.count} x {jax.devices()[0].device_kind}",
    ]
