"""Scores a finished detector on another split or folder: read it from top to bottom."""

import dataclasses
import json
from pathlib import Path

import jax

from hpm_jax.config import Detect, DetectEvaluate
from hpm_jax.config.detect import DetectScoring
from hpm_jax.convert.weights import WeightsError
from hpm_jax.data.detected import Detected, check_first, check_masks
from hpm_jax.data.records import DataError
from hpm_jax.data.sources import SOURCES
from hpm_jax.detection.rasters import pycocotools
from hpm_jax.evaluation.detecting import DetectMeter, detector_function
from hpm_jax.run.build import build_tokenizer
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices
from hpm_jax.run.load import load_finished
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.storage import write
from hpm_jax.tasks.data import LOOKED_AT, scored_split, spread
from hpm_jax.tasks.detect import by_class, numbers_of, sentence, write_scores
from hpm_jax.tasks.finish import command
from hpm_jax.visualize.objects import draw
from hpm_jax.visualize.report import write_report

EXPLANATION = (
    "AP is COCO's average precision of the split, the mean over IoU 0.50 to 0.95; AP50 is at IoU "
    "0.50. The mean is over the classes that occur."
)


def detect_evaluate(config: DetectEvaluate, workdir: str | Path) -> int:
    """Scores a detector, and writes `report.md`, `report.html` and `detection.json`.

    Args:
        config: from `hpm_jax.config.freeze`.
        workdir: folder for these files.

    Returns:
        The exit code of the command.
    """
    console = Console()
    pycocotools("the task detect_evaluate")
    # --- the run, its classes and the images: all are checked before anything is compiled
    devices = all_devices()
    source, run = load_finished(config.init_from)
    if not isinstance(run.config, Detect):
        raise WeightsError(
            f"{source} is the workdir of a {run.config.task}, which detects nothing: train a "
            "detector from it (configs/detect.py)"
        )
    trained = run.config
    data = scored_split(trained.data, config.data)
    classes = tuple(json.loads((source / "classes.json").read_text()))
    splits = SOURCES[data.source](data)
    if splits.classes != classes:
        raise DataError(
            f"{data.path} has {len(splits.classes)} categories, {', '.join(splits.classes[:3])}, "
            f"..., and the run in {source} {len(classes)}, {', '.join(classes[:3])}, ...: give "
            "data of the same names in the order of their ids"
        )
    records = Detected(splits.test, data)
    check_first(records, LOOKED_AT)
    if trained.model.masks:
        check_masks(records)
    workdir = open_workdir(workdir, config)
    height, width = data.image_size
    facts = [
        f"detector: {config.init_from}, step {int(run.state.step)}",
        f"data: {data.path}, {len(records)} images of the split {data.test_split}, "
        f"{len(classes)} classes",
        f"scores: images fitted into {height} x {width} pixels, {config.evaluation.detections} "
        f"detections of each at most; on {devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))

    # --- score
    scoring = DetectScoring(**vars(config.evaluation))
    seen = dataclasses.replace(trained, data=data, evaluation=scoring, run=config.run)
    function = detector_function(seen, run.model, build_tokenizer(trained))
    meter = DetectMeter(seen, function, records, len(classes), devices)
    params = jax.device_put(run.state.params, devices.replicated)
    scores = meter(params)
    facts += [f"left out, unreadable: {name}" for name in meter.unread]
    places = spread(len(records), scoring.pictures)
    shown = meter.shown(params, places) if len(places) else []

    # --- write
    step, epoch = int(run.state.step), float(trained.optimizer.epochs)
    if is_main():
        line = {"step": step, "epoch": epoch} | numbers_of(scores) | by_class(scores, classes)
        write(workdir / "metrics.jsonl", json.dumps(line) + "\n")
        write_scores(workdir, step, epoch, scores, classes)
        if shown:
            png = draw(shown, classes, f"split {data.test_split}: {sentence(scores)}")
            write(workdir / "pictures" / f"step_{step:07d}.png", png)
    write_report(workdir, command(), facts, EXPLANATION)
    console.say(sentence(scores))
    console.say(f"done: read {workdir / 'report.md'}")
    return 0
