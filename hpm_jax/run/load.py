"""A finished or unfinished run, loaded from its workdir."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hpm_jax.config import Config, Finetune
from hpm_jax.run.build import (
    Start,
    build_classifier,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
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
    config = read_config(path)
    if config.task not in ("pretrain", "finetune"):
        raise CheckpointError(f"{path} is the workdir of a {config.task}: it has no weights")
    if not any((path / folder).glob("[0-9]*")):
        raise CheckpointError(f"{path} has no checkpoint yet")
    model, method, init, start = _parts(path, config)
    abstract = abstract_state(init, jax.random.key(0), start, place=on_one_device)
    with checkpoints(path / folder, config.run.keep_checkpoints) as saved:
        state = saved.restore(abstract, print)
    if state is None:  # in a bucket, one that is not whole is there too
        raise CheckpointError(f"{path} has no checkpoint yet")
    return LoadedRun(config, model, method, state.replace(frozen=start.get("frozen") or None))


def _parts(path: Path, config: Config | Finetune) -> tuple[Any, Method | None, Any, Start]:
    """Model, method, and how a state starts."""
    if isinstance(config, Config):
        model, method = build_model(config), build_method(config)
        init = build_init(config, model, method, build_optimizer(config))
        return model, method, init, Start(frozen=load_frozen(method))
    classes = json.loads((path / "classes.json").read_text())
    classifier = build_classifier(config, len(classes))

    def init_classifier(key: jax.Array, start: Start) -> TrainState:
        params = init_params(classifier, key)
        return fresh_state(params, build_optimizer(config), bool(config.optimizer.average))

    return classifier, None, init_classifier, Start()
