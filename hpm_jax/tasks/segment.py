"""Trains a segmenter from pre-trained weights: read it from top to bottom."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpm_jax.config import Segment, SegmentProbe
from hpm_jax.convert.assign import assign
from hpm_jax.data.fingerprint import check_data
from hpm_jax.data.pipeline import BrokenImages, train_batches
from hpm_jax.data.records import DataError, Splits
from hpm_jax.data.segment_views import segment_view
from hpm_jax.data.segmented import Segmented, check_first, check_ignored
from hpm_jax.evaluation.confusion import Scores
from hpm_jax.evaluation.segmenting import SegmentMeter, segmenter_logits
from hpm_jax.models import Segmenter
from hpm_jax.models.flops import segmenter_flops
from hpm_jax.run.build import build_optimizer, build_tokenizer
from hpm_jax.run.build_dense import build_segment_init, build_segment_recipe, build_segmenter
from hpm_jax.run.checkpoints import Checkpoints, checkpoints
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices, all_devices, check_batch
from hpm_jax.run.loop import Experiment, Training
from hpm_jax.run.metrics import read_lines
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.schedules import SegmentTimetable
from hpm_jax.step.segment_step import learning_rates, make_segment_step, variables_of
from hpm_jax.step.state import Params, Start, TrainState, param_shapes
from hpm_jax.storage import write
from hpm_jax.tasks.data import LOOKED_AT, load_data, spread
from hpm_jax.tasks.finish import finish_run
from hpm_jax.tasks.start import image_encoder
from hpm_jax.visualize.segments import draw

LAST_NORM = "encoder/transformer/norm"
# parameters that an encoder may get in this task: layer scale and relative positions
ADDED = (
    "encoder/transformer/blocks/attention_scale",
    "encoder/transformer/blocks/mlp_scale",
    "encoder/transformer/blocks/attention/relative_positions",
)
EXPLANATION = (
    "Scores are over all labelled pixels of the test split, at the size of the images, from one "
    "confusion matrix. Mean IoU is the mean over the classes that occur in truth or prediction. "
    "`checkpoints/` has the last state and `best/` the one with the highest mean IoU, which was "
    "chosen on the images that it is measured on: compare runs by the last."
)


def segment(config: Segment, workdir: str | Path) -> int:
    """Starts or resumes a segmentation run.

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
    classes = class_names(config, splits)
    train, test = (Segmented(one, config.data, len(classes)) for one in (splits.train, splits.test))
    for records in (train, test):
        check_first(records, LOOKED_AT)
    model = build_segmenter(config, len(classes), devices.gather)
    start = Start(params=load_start(config, model, console.say))
    workdir = open_workdir(workdir, config)
    check_data(workdir, splits._replace(classes=classes), config.run.accept_new_data)
    if is_main():
        write(workdir / "classes.json", json.dumps(classes, indent=0) + "\n")
    timetable = SegmentTimetable(config, len(train))
    facts = describe(config, splits, classes, timetable, devices)
    console.say("\n".join(facts))

    # --- model and training step
    optimizer = build_optimizer(config)
    rates = learning_rates(param_shapes(model), model, config.optimizer.layer_decay)
    recipe = build_segment_recipe(config)
    step = make_segment_step(model, recipe, optimizer, rates)
    batch, size = config.optimizer.batch_size, config.data.image_size
    flops = segmenter_flops(model, recipe.passes)
    experiment = Experiment(
        init=build_segment_init(model, optimizer),
        start=start,
        step=step,
        inputs={
            "image": jax.ShapeDtypeStruct(
                (batch, *config.data.train_shape), config.data.pixel_dtype
            ),
            "label_map": jax.ShapeDtypeStruct((batch, *size), np.int16),
        },
        batches=functools.partial(
            train_batches, train, config, view=segment_view(config.data, config.augment)
        ),
        broken=BrokenImages(train, config.data.max_broken, config.data.max_pixels),
        timetable=timetable,
        flops=lambda schedule: flops,
        summary=lambda numbers, schedule: f"loss {numbers['loss']:.3f}",
        observe_every=config.evaluation.every_epochs,
        observe_first=False,
        guard=config.guard,
    )
    meter = SegmentMeter(config, segmenter_logits(model, build_tokenizer(config)), test, devices)

    # --- train, score the test split, and keep the best
    with (
        checkpoints(workdir / "best", keep=1) as best,
        Training(experiment, config.seed, config.run, workdir, devices, console) as training,
    ):
        observe = observe_scores(meter, classes, best, training)
        for state in training:
            observe(state)
    if meter.unread:
        facts.append(f"left out of the test split, unreadable: {', '.join(meter.unread)}")
    return finish_run(training.outcome, workdir, facts, EXPLANATION, console)


def class_names(config: Segment | SegmentProbe, splits: Splits) -> tuple[str, ...]:
    """Returns the names of the classes: from the data, or their numbers.

    Raises:
        DataError: if their number is unknown, or differs from `config.data.classes`, or the value
            to leave out is one of them.
    """
    names, wanted = splits.classes, config.data.classes
    if not names and not wanted:
        raise DataError(
            f"{config.data.path} has no classes.txt, so the number of classes is unknown: write "
            "one with a name in each line, or give --config.data.classes=150"
        )
    if names and wanted and len(names) != wanted:
        raise DataError(
            f"config.data.classes = {wanted}, and {config.data.path} names {len(names)} classes: "
            "leave the option out, or correct the list"
        )
    names = names or tuple(map(str, range(wanted)))
    check_ignored(config.data, names)
    return names


def load_start(config: Segment, model: Segmenter, say: Callable[[str], None]) -> Params:
    """Returns the encoder of `config.init_from`; {} for random weights, and for raw pixels.

    Positions are resized to the grid of the crop. The decoder is always new.
    """
    if model.raw_pixels:
        say("weights: none, the decoder reads raw pixels")
        return {}
    if config.weights == "random":
        say("weights: random")
        return {}
    given = {"encoder": image_encoder(config, model.grid, "segmentation", say)}
    fresh: tuple[str, ...] = ("head", *ADDED)
    if "norm" not in given["encoder"]["transformer"]:  # a classifier of averaged tokens has none
        fresh = (*fresh, LAST_NORM)
    start, matching = assign(param_shapes(model), given, new=fresh)
    say(matching.sentence(config.init_from))
    return start


def observe_scores(
    meter: SegmentMeter, classes: tuple[str, ...], best: Checkpoints, training: Training
) -> Callable[[TrainState], None]:
    """Builds `state -> None`, which scores the test split, draws, and keeps the best state."""
    lines = read_lines(training.writer.path)
    highest = max((line["miou"] for line in lines if "miou" in line), default=-1.0)
    drawn = spread(len(meter.records), meter.config.evaluation.pictures)

    def observe(state: TrainState) -> None:
        nonlocal highest
        step = int(state.step)
        epoch = training.timetable.epoch(step)
        variables = variables_of(state)
        scores = meter(variables)
        numbers = scores.numbers()
        training.writer.write(step, {"epoch": epoch} | numbers | by_class(scores, classes))
        training.console.say(
            f"epoch {epoch:<6.4g} mean IoU {numbers['miou']:.2%}  pixel accuracy "
            f"{numbers['pixel_accuracy']:.2%}  mean accuracy of classes "
            f"{numbers['mean_class_accuracy']:.2%}"
        )
        png = picture(meter, variables, drawn, classes, f"epoch {epoch:.4g}", numbers["miou"])
        if is_main():
            write_scores(training.workdir, step, epoch, scores, classes)
            if png:
                write(training.workdir / "pictures" / f"step_{step:07d}.png", png)
                training.writer.write_picture(step, "segmentation", png)
        if numbers["miou"] > highest:
            highest = numbers["miou"]
            best.save(state)

    return observe


def picture(
    meter: SegmentMeter,
    params: Params,
    places: np.ndarray,
    classes: tuple[str, ...],
    title: str,
    miou: float,
) -> bytes:
    """Draws the images at `places` of the split; b"" for none. Every process has to call it."""
    segmented = list(meter.segment(params, places)) if len(places) else []
    if not segmented or not is_main():
        return b""
    return draw(segmented, classes, f"{title}: mean IoU {miou:.2%}")


def by_class(scores: Scores, classes: tuple[str, ...]) -> dict[str, float]:
    """Returns the IoU of each class that it is defined for, by name."""
    return {
        f"iou/{name}": float(value)
        for name, value in zip(classes, scores.iou, strict=True)
        if math.isfinite(value)
    }


def write_scores(
    workdir: Path, step: int, epoch: float, scores: Scores, classes: tuple[str, ...]
) -> None:
    """Writes `segmentation.json`, the newest scores, for the report."""

    def known(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    rows = zip(classes, scores.iou, scores.accuracy, scores.share, strict=True)
    table = [
        {"name": name, "iou": known(iou), "accuracy": known(accuracy), "share": float(share)}
        for name, iou, accuracy, share in rows
    ]
    document: dict[str, Any] = {"step": step, "epoch": epoch, **scores.numbers(), "classes": table}
    write(workdir / "segmentation.json", json.dumps(document, indent=2) + "\n")


def describe(
    config: Segment,
    splits: Splits,
    classes: tuple[str, ...],
    timetable: SegmentTimetable,
    devices: Devices,
) -> list[str]:
    """Describes the run in a few lines."""
    model, optimizer, scoring = config.model, config.optimizer, config.evaluation
    height, width = config.data.image_size
    what = f"width {model.width}, {model.depth} blocks, {model.dtype}"
    encoder = f"{what}; {config.weights} weights of {config.init_from}"
    if model.frozen:
        encoder += ", frozen: a linear probe on tokens that a layer norm without parameters scales"
    decoder = str(config.decoder)
    if model.raw_pixels:
        encoder = "none: a linear layer on the pixels of each patch"
    flips = " and mirrored" if scoring.flip else ""
    return [
        f"data: {config.data.path}, {len(splits.train)} images to train on and "
        f"{len(splits.test)} to test, {len(classes)} classes",
        f"encoder: {encoder}",
        f"decoder: {decoder}",
        f"scores: windows of {height} x {width} pixels, {scoring.stride:.3g} of that apart, at "
        f"{', '.join(f'{scale:g}' for scale in scoring.scales)} of the size{flips}",
        f"run: {optimizer.epochs} epochs, {timetable.steps} steps of {optimizer.batch_size} crops "
        f"of {height} x {width} on {devices.count} x {jax.devices()[0].device_kind}",
    ]
