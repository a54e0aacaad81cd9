"""Loads a finished or unfinished run from its workdir."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import Array

from hpm_jax.config import TASKS, Config, Detect, Finetune, Segment
from hpm_jax.config.tasks import resolve
from hpm_jax.run.build import (
    build_classifier,
    build_finetune_init,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.run.build_dense import (
    build_detect_init,
    build_detector,
    build_segment_init,
    build_segmenter,
)
from hpm_jax.run.checkpoints import CheckpointError, checkpoints
from hpm_jax.run.workdir import read_config
from hpm_jax.step.method import Method
from hpm_jax.step.state import Start, TrainState, abstract_state, on_one_device
from hpm_jax.storage import as_path
from hpm_jax.text_files import read_json


class Parts(NamedTuple):
    """The parts that are needed to read a checkpoint; `Task.build` makes them from a config."""

    model: Any
    init: Callable[[Array, Start], TrainState]
    start: Start
    method: Method | None = None  # of pre-training


class LoadedRun(NamedTuple):
    """The contents of a workdir."""

    config: Any  # the options of its task
    model: Any  # a MaskedAutoencoder, a Classifier, a Segmenter or a Detector
    method: Method | None  # of pre-training
    state: TrainState


def load_run(workdir: str | os.PathLike[str], folder: str = "checkpoints") -> LoadedRun:
    """Loads the newest intact checkpoint of a workdir, with its model.

    Args:
        folder: which checkpoints: "checkpoints", or "best" of a fine-tuning or segmentation run.

    Raises:
        CheckpointError: if there is none.
    """
    path = as_path(workdir)
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path} is not the workdir of a run: it has no config.json")
    config = read_config(path)
    build = TASKS[config.task].build
    if build is None:
        raise CheckpointError(f"{path} is the workdir of a {config.task}: it has no weights")
    if not any((path / folder).glob("[0-9]*")):
        raise CheckpointError(f"{path} has no checkpoint yet")
    model, init, start, method = resolve(build)(config, path)
    abstract = abstract_state(init, jax.random.key(0), start, place=on_one_device)
    with checkpoints(path / folder, config.run.keep_checkpoints) as saved:
        state = saved.restore(abstract, print, start.get("frozen"))
    if state is None:  # a bucket may hold an incomplete one
        raise CheckpointError(f"{path} has no checkpoint yet")
    return LoadedRun(config, model, method, state)


def load_finished(init_from: str) -> tuple[Path, LoadedRun]:
    """Loads a run by its workdir, or by its folder `best`; returns the workdir as well."""
    source = as_path(init_from)
    if source.name == "best":
        return source.parent, load_run(source.parent, "best")
    return source, load_run(source)


def pretraining_parts(config: Config, workdir: Path) -> Parts:
    """Builds the masked autoencoder and the method of a pre-training run."""
    model, method = build_model(config), build_method(config)
    init = build_init(config, model, method, build_optimizer(config))
    return Parts(model, init, Start(frozen=load_frozen(method)), method)


def _classes(workdir: Path) -> list[str]:
    return read_json(workdir / "classes.json", CheckpointError, "put a copy of it back", list)


def finetuning_parts(config: Finetune, workdir: Path) -> Parts:
    """Builds the classifier of a fine-tuning run; its classes are stored in the workdir."""
    classes = _classes(workdir)
    classifier = build_classifier(config, len(classes))
    init = build_finetune_init(config, classifier, build_optimizer(config))
    return Parts(classifier, init, Start())


def segmentation_parts(config: Segment, workdir: Path) -> Parts:
    """Builds the segmenter of a run; its classes are stored in the workdir."""
    classes = _classes(workdir)
    segmenter = build_segmenter(config, len(classes))
    return Parts(segmenter, build_segment_init(segmenter, build_optimizer(config)), Start())


def detection_parts(config: Detect, workdir: Path) -> Parts:
    """Builds the detector of a run; its classes are stored in the workdir."""
    classes = _classes(workdir)
    detector = build_detector(config, len(classes))
    return Parts(detector, build_detect_init(detector, build_optimizer(config)), Start())
