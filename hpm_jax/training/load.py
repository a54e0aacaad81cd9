"""A finished or unfinished run, loaded from its workdir."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax

from hpm_jax.config import freeze
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.options import Config
from hpm_jax.training.build import build_method, build_model, build_optimizer
from hpm_jax.training.checkpoints import CheckpointError, checkpoints
from hpm_jax.training.state import TrainState, abstract_state, init_state
from hpm_jax.training.step import Method


class Run(NamedTuple):
    """What a workdir holds."""

    config: Config
    model: MaskedAutoencoder
    method: Method
    state: TrainState


def load_run(workdir: str | Path) -> Run:
    """The newest whole checkpoint of a workdir, with the model that it belongs to.

    Raises:
        CheckpointError: where there is none.
    """
    path = Path(workdir)
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path} is not the workdir of a run: it has no config.json")
    config = freeze(json.loads((path / "config.json").read_text()))
    model = build_model(config)
    init = functools.partial(
        init_state, model, build_optimizer(config), teacher=config.teacher.keep
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with checkpoints(path / "checkpoints", config.run.keep_checkpoints) as saved:
        state = saved.restore(abstract_state(init, place), print)
    if state is None:
        raise CheckpointError(f"{path} has no checkpoint yet")
    return Run(config, model, build_method(config), state)
