"""Scores a finished segmenter on another split, or by more views: read it from top to bottom."""

import dataclasses
import json
from pathlib import Path

import jax

from hpm_jax.config import Segment, SegmentEvaluate
from hpm_jax.config.segment import SegmentScoring
from hpm_jax.convert.weights import WeightsError
from hpm_jax.data.records import DataError
from hpm_jax.data.segmented import Segmented, check_first
from hpm_jax.data.sources import SOURCES
from hpm_jax.evaluation.segmenting import SegmentMeter, segmenter_logits
from hpm_jax.run.build import build_tokenizer
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices
from hpm_jax.run.load import load_finished
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.segment_step import variables_of
from hpm_jax.storage import write
from hpm_jax.tasks.data import LOOKED_AT, scored_split, spread
from hpm_jax.tasks.finish import command
from hpm_jax.tasks.segment import by_class, picture, write_scores
from hpm_jax.visualize.report import write_report

EXPLANATION = (
    "Scores are over all labelled pixels of the split, at the size of the images, from one "
    "confusion matrix. Mean IoU is the mean over the classes that occur in truth or prediction."
)


def segment_evaluate(config: SegmentEvaluate, workdir: str | Path) -> int:
    """Scores a segmenter, and writes `report.md`, `report.html` and `segmentation.json`.

    Args:
        config: from `hpm_jax.config.freeze`.
        workdir: folder for these files.

    Returns:
        The exit code of the command.
    """
    console = Console()
    # --- the run, its classes and the images: all are checked before anything is compiled
    devices = all_devices()
    source, run = load_finished(config.init_from)
    if not isinstance(run.config, Segment):
        raise WeightsError(
            f"{source} is the workdir of a {run.config.task}, which segments nothing: train "
            "a segmenter from it (configs/segment.py)"
        )
    trained = run.config
    data = scored_split(trained.data, config.data)
    classes = tuple(json.loads((source / "classes.json").read_text()))
    splits = SOURCES[data.source](data)
    if splits.classes and splits.classes != classes:
        raise DataError(
            f"{data.path} names {len(splits.classes)} classes, {', '.join(splits.classes[:3])}, "
            f"..., and the run in {source} has {len(classes)}, {', '.join(classes[:3])}, ...: give "
            "data of the same classes in the same order"
        )
    records = Segmented(splits.test, data, len(classes))
    check_first(records, LOOKED_AT)
    workdir = open_workdir(workdir, config)
    views = config.evaluation
    scales = ", ".join(f"{scale:g}" for scale in views.scales)
    height, width = data.image_size
    facts = [
        f"segmenter: {config.init_from}, step {int(run.state.step)}",
        f"data: {data.path}, {len(records)} images of the split {data.test_split}, "
        f"{len(classes)} classes",
        f"scores: windows of {height} x {width} pixels, {views.stride:.3g} of that apart, at "
        f"{scales} of the size{' and mirrored' if views.flip else ''}; on {devices.count} x "
        f"{jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))

    # --- score
    scoring = SegmentScoring(**vars(views))
    seen = dataclasses.replace(trained, data=data, evaluation=scoring, run=config.run)
    meter = SegmentMeter(
        seen, segmenter_logits(run.model, build_tokenizer(trained)), records, devices
    )
    variables = jax.device_put(variables_of(run.state), devices.replicated)
    scores = meter(variables)
    facts += [f"left out, unreadable: {name}" for name in meter.unread]
    places = spread(len(records), views.pictures)
    miou = scores.miou
    png = picture(meter, variables, places, classes, f"split {data.test_split}", miou)

    # --- write
    step, epoch = int(run.state.step), float(trained.optimizer.epochs)
    if is_main():
        line = {"step": step, "epoch": epoch} | scores.numbers() | by_class(scores, classes)
        write(workdir / "metrics.jsonl", json.dumps(line) + "\n")
        write_scores(workdir, step, epoch, scores, classes)
        if png:
            write(workdir / "pictures" / f"step_{step:07d}.png", png)
    write_report(workdir, command(), facts, EXPLANATION)
    console.say("  ".join(f"{name} {value:.2%}" for name, value in scores.numbers().items()))
    console.say(f"done: read {workdir / 'report.md'}")
    return 0
