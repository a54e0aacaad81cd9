"""Trains a detector from pre-trained weights: read it from top to bottom."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpm_jax.config import Detect
from hpm_jax.convert.assign import assign
from hpm_jax.data.coco import find_instances
from hpm_jax.data.detect_views import detect_view
from hpm_jax.data.detected import Detected, check_first, check_masks
from hpm_jax.data.fingerprint import check_data
from hpm_jax.data.pipeline import BrokenImages, train_batches
from hpm_jax.data.records import Splits
from hpm_jax.detection.matching import most_positive
from hpm_jax.detection.rasters import pycocotools
from hpm_jax.evaluation.coco_scores import CocoScores
from hpm_jax.evaluation.detecting import DetectMeter, detector_function
from hpm_jax.models import Detector
from hpm_jax.models.flops import detector_flops
from hpm_jax.run.build import build_optimizer, build_tokenizer
from hpm_jax.run.build_dense import build_detect_init, build_detect_recipe, build_detector
from hpm_jax.run.checkpoints import Checkpoints, checkpoints
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices, all_devices, check_batch
from hpm_jax.run.loop import Experiment, Training
from hpm_jax.run.metrics import read_lines
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.detect_step import PROPOSAL_SHARE, make_detect_step
from hpm_jax.step.optimizer import encoder_rates
from hpm_jax.step.schedules import DetectTimetable
from hpm_jax.step.state import Params, Start, TrainState, param_shapes
from hpm_jax.storage import write
from hpm_jax.tasks.data import LOOKED_AT, load_data, spread
from hpm_jax.tasks.finish import finish_run
from hpm_jax.tasks.start import image_encoder
from hpm_jax.visualize.objects import draw

# parts that no pre-training has
NEW = ("pyramid", "regions", "boxes", "mask_head")
OFFSETS = tuple(
    f"encoder/transformer/blocks/attention/{side}_offsets" for side in ("row", "column")
)
EXPLANATION = (
    "AP is COCO's average precision of the test split, the mean over IoU 0.50 to 0.95, with 100 "
    "detections an image; AP50 is at IoU 0.50. The mean is over the classes that occur. "
    "`checkpoints/` has the last state and `best/` the one with the highest AP of boxes, which was "
    "chosen on the images that it is measured on: compare runs by the last."
)


def detect(config: Detect, workdir: str | Path) -> int:
    """Starts or resumes a detection run.

    Args:
        config: from `hpm_jax.config.freeze`, completed by `hpm_jax.config.inherit`.
        workdir: folder of the run; if it holds a checkpoint, the run resumes from it.

    Returns:
        The exit code: 0 at the end of the run, 143 or 130 if a signal stopped it.
    """
    console = Console()
    pycocotools("the task detect")
    # --- data, devices, weights: all are checked before anything is compiled
    devices = all_devices(config.run.fsdp)
    check_batch(config, devices)
    splits = load_data(config)
    classes = splits.classes
    train, test = (Detected(one, config.data) for one in (splits.train, splits.test))
    for records in (train, test):
        check_first(records, LOOKED_AT)
        if config.model.masks:
            check_masks(records)
    model = build_detector(config, len(classes), devices.gather)
    start = Start(params=load_start(config, model, console.say))
    workdir = open_workdir(workdir, config)
    check_data(workdir, splits, config.run.accept_new_data)
    if is_main():
        write(workdir / "classes.json", json.dumps(classes, indent=0) + "\n")
    timetable = DetectTimetable(config, len(train))
    facts = describe(config, splits, timetable, devices)
    console.say("\n".join(facts))

    # --- model and training step
    optimizer, recipe = build_optimizer(config), build_detect_recipe(config)
    rates = encoder_rates(param_shapes(model), config.optimizer.layer_decay, model.frozen)
    step = make_detect_step(model, recipe, optimizer, rates)
    sampled = recipe.sampled_proposals
    flops = detector_flops(model, sampled, most_positive(sampled, PROPOSAL_SHARE))
    experiment = Experiment(
        init=build_detect_init(model, optimizer),
        start=start,
        step=step,
        inputs=batch_shapes(config),
        batches=functools.partial(train_batches, train, config, view=detect_view(config)),
        broken=BrokenImages(train, config.data.max_broken, config.data.max_pixels),
        timetable=timetable,
        flops=lambda schedule: flops,
        summary=lambda numbers, schedule: f"loss {numbers['loss']:.3f}",
        observe_every=config.evaluation.every_epochs,
        observe_first=False,
        guard=config.guard,
    )
    function = detector_function(config, model, build_tokenizer(config))
    meter = DetectMeter(config, function, test, len(classes), devices)

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


def batch_shapes(config: Detect) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the parts of a batch that the step takes, in order; see `random_view`."""
    batch, objects = config.optimizer.batch_size, config.data.max_objects
    cells = config.data.mask_cells if config.model.masks else 0
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": (config.data.train_shape, config.data.pixel_dtype),
        "size": ((2,), np.float32),
        "boxes": ((objects, 4), np.float32),
        "classes": ((objects,), np.int32),
        "masks": ((objects, cells, cells), np.uint8),
    }
    return {
        name: jax.ShapeDtypeStruct((batch, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }


def load_start(config: Detect, model: Detector, say: Callable[[str], None]) -> Params:
    """Returns the encoder of `config.init_from`, on the grid of the crop; {} for random weights.

    Cls token, registers and last norm are left out, as in ViTDet; the other parts are new.
    """
    if config.weights == "random":
        say("weights: random")
        return {}
    encoder = image_encoder(config, model.grid, "detection", say)
    if "positions" in encoder:
        encoder["positions"] = encoder["positions"][:, -math.prod(model.grid) :]
    unused = ("encoder/cls_token", "encoder/registers", "encoder/transformer/norm")
    # a head of pre-training or of classes serves no detector
    start, matching = assign(
        param_shapes(model), {"encoder": encoder}, new=NEW + OFFSETS, dropped=unused
    )
    say(matching.sentence(config.init_from))
    return start


def observe_scores(
    meter: DetectMeter, classes: tuple[str, ...], best: Checkpoints, training: Training
) -> Callable[[TrainState], None]:
    """Builds `state -> None`, which scores the test split, draws, and keeps the best state."""
    lines = read_lines(training.writer.path)
    highest = max((line["box_ap"] for line in lines if "box_ap" in line), default=-1.0)
    drawn = spread(len(meter.records), meter.config.evaluation.pictures)

    def observe(state: TrainState) -> None:
        nonlocal highest
        step = int(state.step)
        epoch = training.timetable.epoch(step)
        scores = meter(state.params)
        numbers = numbers_of(scores)
        training.writer.write(step, {"epoch": epoch} | numbers | by_class(scores, classes))
        training.console.say(f"epoch {epoch:<6.4g} {sentence(scores)}")
        shown = meter.shown(state.params, drawn) if len(drawn) else []
        if is_main():
            write_scores(training.workdir, step, epoch, scores, classes)
            if shown:
                png = draw(shown, classes, f"epoch {epoch:.4g}: {sentence(scores)}")
                write(training.workdir / "pictures" / f"step_{step:07d}.png", png)
                training.writer.write_picture(step, "detection", png)
        if numbers.get("box_ap", -1.0) > highest:
            highest = numbers["box_ap"]
            best.save(state)

    return observe


def sentence(scores: dict[str, CocoScores]) -> str:
    """Returns AP and AP50 of boxes and masks in one line."""
    parts = [
        f"{kind} AP {one.numbers['ap']:.2%}, AP50 {one.numbers['ap50']:.2%}"
        for kind, one in scores.items()
    ]
    return "  ".join(parts)


def numbers_of(scores: dict[str, CocoScores]) -> dict[str, float]:
    """Returns every defined number by name, such as "box_ap50"."""
    return {
        f"{kind}_{name}": value
        for kind, one in scores.items()
        for name, value in one.numbers.items()
        if math.isfinite(value)
    }


def by_class(scores: dict[str, CocoScores], classes: tuple[str, ...]) -> dict[str, float]:
    """Returns the AP of boxes of each class that has objects, by name."""
    pairs = zip(classes, scores["box"].ap, strict=True)
    return {f"box_ap/{name}": float(value) for name, value in pairs if math.isfinite(value)}


def write_scores(
    workdir: Path,
    step: int,
    epoch: float,
    scores: dict[str, CocoScores],
    classes: tuple[str, ...],
) -> None:
    """Writes `detection.json`, the newest scores, for the report."""
    table: list[dict[str, Any]] = []
    for place, name in enumerate(classes):
        row: dict[str, Any] = {"name": name, "objects": int(scores["box"].objects[place])}
        for kind, one in scores.items():
            for part, values in (("ap", one.ap), ("ap50", one.ap50)):
                value = float(values[place])
                row[f"{kind}_{part}"] = value if math.isfinite(value) else None
        table.append(row)
    document = {"step": step, "epoch": epoch, **numbers_of(scores), "classes": table}
    write(workdir / "detection.json", json.dumps(document, indent=2) + "\n")


def describe(
    config: Detect, splits: Splits, timetable: DetectTimetable, devices: Devices
) -> list[str]:
    """Describes the run in a few lines."""
    model, optimizer = config.model, config.optimizer
    height, width = config.data.image_size
    windows = "attention over the image"
    if model.window:
        windows = (
            f"attention in windows of {model.window} x {model.window} patches, over the image in "
            f"{model.global_blocks} blocks"
        )
    facts = [
        f"data: {config.data.path}, {len(splits.train)} images to train on and "
        f"{len(splits.test)} to test, {len(splits.classes)} classes",
        f"encoder: width {model.width}, {model.depth} blocks, {model.dtype}, {windows}; "
        f"{config.weights} weights of {config.init_from}{', frozen' if model.frozen else ''}",
        f"heads: {model.box_head}{', masks' if model.masks else ', no masks'}, "
        f"{model.channels} channels",
        f"run: {optimizer.epochs} epochs, {timetable.steps} steps of {optimizer.batch_size} crops "
        f"of {height} x {width} on {devices.count} x {jax.devices()[0].device_kind}",
    ]
    for records, name in ((splits.train, "train on"), (splits.test, "test")):
        images, _ = find_instances(records, 0)
        if images.skipped:
            facts.append(f"left out as invalid: {images.skipped} annotations to {name}")
    return facts
