"""Scores a classifier with its own head: read it from top to bottom."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config import ConfigError, Evaluate
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import Weights, WeightsError, classifier
from hpm_jax.data.records import DataError, Records, known_labels
from hpm_jax.data.scored import places_in_model, read_class_names, scored_split
from hpm_jax.evaluation.accuracy import AccuracyMeter
from hpm_jax.models import Classifier
from hpm_jax.models.positions import encoder_on_grid
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices, all_devices
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.state import Params
from hpm_jax.storage import as_path, write
from hpm_jax.tasks.finish import command
from hpm_jax.tokens import grid_of
from hpm_jax.visualize.report_page import write_report_page


def evaluate(config: Evaluate, workdir: str | Path) -> int:
    """Scores a classifier, and writes `report.md`, `report.html` and `evaluate.json`.

    Args:
        config: from `hpm_jax.config.freeze`, completed by `hpm_jax.config.inherit`.
        workdir: the folder for these files.

    Returns:
        The exit code of the command.
    """
    console = Console()
    # --- weights, data, classes: all are checked before anything is compiled
    devices = all_devices()
    weights = read_weights(config.init_from, config.weights)
    model, params = load_classifier(config, weights)
    records, found = scored_split(config.data, config.split)
    check_scored(config, records, found)
    places = places_in_model(found, model.classes, model_classes(config), place_of(config))
    workdir = open_workdir(workdir, config)
    facts = describe(config, model, records, found, devices)
    console.say("\n".join(facts))

    # --- score
    among = outputs_in_order(places, model.classes, config.restrict)
    meter = AccuracyMeter(config, model, records, devices, weights.architecture.patch, among)
    numbers = meter(jax.device_put(params, devices.replicated))

    # --- write
    facts += [f"left out, unreadable: {name}" for name in meter.unread]
    if is_main():
        write_results(workdir, config, numbers, len(records) - len(meter.unread), facts)
    console.say(
        f"top-1 {numbers['top1']:.3%}  top-5 {numbers['top5']:.3%}  loss {numbers['test_loss']:.4f}"
    )
    console.say(f"done: read {workdir / 'report.md'}")
    return 0


def load_classifier(config: Evaluate, weights: Weights) -> tuple[Classifier, Params]:
    """Builds the classifier for the size of the config's images, with its parameters.

    Raises:
        WeightsError: for weights without a head.
        ConfigError: for an image size or channels that it does not support.
    """
    a, data = weights.architecture, config.data
    if not a.classes:
        raise WeightsError(
            f"{config.init_from} has no head, so it classifies nothing: fine-tune it "
            "(configs/finetune.py), or measure its features (configs/report.py)"
        )
    if data.channels != a.channels:
        raise ConfigError(
            f"config.data.channels = {data.channels}, and the classifier takes {a.channels}"
        )
    try:
        grid = grid_of((data.frames, *data.image_size), a.patch)
    except ValueError as error:
        raise ConfigError(
            f"config.data.frames = {data.frames}, config.data.image_size = {data.image_size}: "
            f"{error}"
        ) from None
    if a.layout == "mae" and grid[0] != a.grid[0]:
        raise ConfigError(f"config.data.frames = {data.frames}, and the classifier is for images")
    dtype = jnp.dtype(config.dtype)
    model = classifier(weights).clone(grid=grid, dtype=dtype, attention=config.attention)
    encoder = encoder_on_grid(weights.params["encoder"], a.grid, grid)
    return model, weights.params | {"encoder": encoder}


def model_classes(config: Evaluate) -> tuple[str, ...] | None:
    """Returns the names of the model's classes: given, or those of its run; None if unknown."""
    if config.classes:
        return read_class_names(config.classes)
    source = as_path(config.init_from)
    there = (source.parent if source.name == "best" else source) / "classes.json"
    return tuple(json.loads(there.read_text())) if there.exists() else None


def check_scored(config: Evaluate, records: Records, classes: tuple[str, ...]) -> None:
    """Raises a `DataError` if there are no classes, or labels that are not among them."""
    labels = known_labels(records)
    if labels is None:  # reading all would take too long; the first shows whether there are labels
        labels = np.array([records[0]["label"]])
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if not classes or len(bad):
        name = f": {records.name(int(bad[0]))}" if len(bad) else ""
        raise DataError(
            f"{place_of(config)} has images without a label{name}; put them into folders named "
            "after their classes, as in val/cat/1.jpg"
        )


def outputs_in_order(places: np.ndarray, classes: int, restrict: bool) -> np.ndarray | None:
    """Returns the model outputs to use, those of the data's classes first; None for all."""
    if not restrict:
        places = np.concatenate([places, np.setdiff1d(np.arange(classes), places)])
    return None if np.array_equal(places, np.arange(classes)) else places


def place_of(config: Evaluate) -> str:
    """Returns the name of the data in messages."""
    return config.data.path or config.data.name or config.data.source


def describe(
    config: Evaluate,
    model: Classifier,
    records: Records,
    found: tuple[str, ...],
    devices: Devices,
) -> list[str]:
    """Describes what is about to be scored, in a few lines."""
    data = config.data
    views = data.test_crops * (data.test_clips if data.frames > 1 else 1)
    among = f"among {len(found)} of {model.classes} classes"
    if not config.restrict or len(found) == model.classes:
        among = f"among {model.classes} classes"
    size = " x ".join(map(str, data.image_size))
    clip = f"{data.frames} frames of " if data.frames > 1 else ""
    return [
        f"classifier: {config.weights} weights of {config.init_from}, width {model.width}, "
        f"{model.depth} blocks, {model.pool} pooling, {config.dtype}",
        f"data: {data.source} {place_of(config)}, {len(records)} examples of {len(found)} "
        f"classes, chosen {among}",
        f"views: {views} of {clip}{size} pixels, {data.test_crop:g} of the short side, mean "
        f"{data.mean}, std {data.std}; on {devices.count} x {jax.devices()[0].device_kind}",
    ]


def write_results(
    workdir: Path, config: Evaluate, numbers: dict[str, float], count: int, facts: list[str]
) -> None:
    """Writes the numbers to `report.md`, `report.html` and `evaluate.json`."""
    named = {
        "top1": numbers["top1"],
        "top5": numbers["top5"],
        "loss": numbers["test_loss"],
        "count": count,
    }
    document: dict[str, Any] = {"init_from": config.init_from, "weights": config.weights} | named
    document |= {"facts": facts, "command": command()}
    write(workdir / "evaluate.json", json.dumps(document, indent=2) + "\n")
    text = ["# Evaluation", "", f"`{command()}`", "", *(f"- {fact}" for fact in facts), ""]
    text += ["| examples | top-1 | top-5 | cross-entropy |", "| --: | --: | --: | --: |"]
    text += [f"| {count} | {named['top1']:.3%} | {named['top5']:.3%} | {named['loss']:.4f} |", ""]
    text += ["Every example is counted once; the scores of its views are averaged.", ""]
    write(workdir / "report.md", "\n".join(text))
    write_report_page(workdir)
