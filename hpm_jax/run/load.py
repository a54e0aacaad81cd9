"""A finished or unfinished run, loaded from its workdir."""

import json
import os
from typing import Any, NamedTuple

import jax

from hpm_jax.config import Config, Finetune
from hpm_jax.run.build import build_classifier, build_method, build_model, build_optimizer
from hpm_jax.run.checkpoints import CheckpointError, checkpoints
from hpm_jax.run.workdir import read_config
from hpm_jax.step.method import Method
from hpm_jax.step.state import (
    TrainState,
    abstract_state,
    fresh_state,
    init_params,
    on_one_device,
)
from hpm_jax.storage import as_path


class LoadedRun(NamedTuple):
    """What a workdir holds."""

    config: Config | Finetune
    model: Any  # a MaskedAutoencoder, or a Classifier
    method: Method | None  # of pre-training
    state: TrainState


def load_run(workdir: str | os.PathLike[str], folder: str = "checkpoints") -> LoadedRun:
    """The newest whole checkpoint of a workdir, with the model that it belongs to.

    Args:
        folder: which checkpoints: "checkpoints", or "best" of a fine-tuning run.

    Raises:
        CheckpointError: where there is none.
    """
    path = as_path(workdir)
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path} is not the workdir of a run: it has no config.json")
    model: Any
    method: Method | None
    config = read_config(path)
    if config.task not in ("pretrain", "finetune"):
        raise CheckpointError(f"{path} is the workdir of a {config.task}: it has no weights")
    if not any((path / folder).glob("[0-9]*")):
        raise CheckpointError(f"{path} has no checkpoint yet")
    if config.task == "pretrain":
        model, method = build_model(config), build_method(config)
    else:
        classes = json.loads((path / "classes.json").read_text())
        model, method = build_classifier(config, len(classes)), None
    teacher = config.task == "pretrain" and config.teacher.keep
    scores = config.stored_scores if config.task == "pretrain" else None

    def init(key):
        return fresh_state(init_params(model, key), build_optimizer(config), teacher, scores)

    abstract = abstract_state(init, jax.random.key(0), place=on_one_device)
    with checkpoints(path / folder, config.run.keep_checkpoints) as saved:
        state = saved.restore(abstract, print)
    if state is None:  # in a bucket, one that is not whole is there too
        raise CheckpointError(f"{path} has no checkpoint yet")
    return LoadedRun(config, model, method, state)
