"""Makes a workdir that resumes from an official pre-training checkpoint.

    python -m hpm_jax.continue_official --checkpoint hpm_temp.pth --config configs/hpm_in1k.py:B \
        --workdir runs/hpm_b200

`python -m hpm_jax.main` with the same config and workdir then resumes from the epoch of the file,
with its student, teacher and moments of AdamW.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from hpm_jax import main as command
from hpm_jax.config import Config, ConfigError, freeze
from hpm_jax.convert.assign import assign
from hpm_jax.convert.sizes import Hints
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.whole import Moments, Whole, read_whole
from hpm_jax.errors import UserError
from hpm_jax.models.decoders import SelfAttention
from hpm_jax.run.build import (
    Start,
    build_init,
    build_method,
    build_model,
    build_optimizer,
    load_frozen,
)
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.workdir import open_workdir
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.state import Params, TrainState, param_shapes
from hpm_jax.tasks.data import load_data

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Official checkpoint (.pth) of HPM or MAE")


def main(argv: list[str]) -> None:
    """Runs the command; an error is printed as one sentence."""
    values = flags.FLAGS
    for name in ("checkpoint", "config", "workdir"):
        if values[name].value is None:
            sys.exit(f"error: --{name} is missing")
    try:
        continue_official(freeze(values.config), str(_CHECKPOINT.value), values.workdir, print)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def continue_official(
    config: Config, checkpoint: str | Path, workdir: str | Path, say: Callable[[str], None]
) -> None:
    """Makes the workdir.

    Args:
        config: config of the run; its images and batch size determine the steps per epoch.

    Raises:
        ConfigError: for another task, a run that would be over, or a workdir that is in use.
        WeightsError: for a checkpoint that does not fit the config.
    """
    if config.task != "pretrain":
        raise ConfigError(f"config.task = {config.task!r}: a pre-training run goes on")
    if config.decoder.architecture != SelfAttention():
        raise ConfigError(
            f"config.decoder = {str(config.decoder)!r}: official checkpoints have MAE's decoder, "
            "--config.decoder=self_attention"
        )
    sizes = config.model
    whole = read_whole(Path(checkpoint), Hints(sizes.heads, sizes.decoder_heads, config.grid[1:]))
    if whole.epoch >= config.optimizer.epochs:
        raise ConfigError(
            f"{checkpoint} was saved after {whole.epoch} epochs, and the run has "
            f"{config.optimizer.epochs} (config.optimizer.epochs): nothing is left to do"
        )
    timetable = PretrainTimetable(config, len(load_data(config).train), config.hidden_units)
    state = state_of(config, whole, timetable.step_of(whole.epoch), str(checkpoint))
    workdir = open_workdir(workdir, config)
    if any((workdir / "checkpoints").glob("[0-9]*")):
        raise ConfigError(f"{workdir} has checkpoints of its own already: give another --workdir")
    with checkpoints(workdir / "checkpoints", config.run.keep_checkpoints) as saved:
        saved.save(state)
    for line in notes(config, whole):
        say(line)
    say(f"wrote {workdir}: epoch {whole.epoch}, step {int(state.step)} of {timetable.steps}")


def state_of(config: Config, whole: Whole, step: int, source: str) -> TrainState:
    """Returns the state before `step`, with the arrays of the checkpoint."""
    if config.teacher.in_state and whole.teacher is None:
        raise WeightsError(
            f"{source} has no teacher (ema_state_dict), and config.teacher = "
            f"{str(config.teacher)!r} asks for one"
        )
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    shapes = param_shapes(model)
    params = _fitting(shapes, whole.student)
    init = build_init(config, model, method, optimizer)
    start = Start(params=params, frozen=load_frozen(method))
    state = jax.jit(init)(jax.random.key(config.seed), start)
    found: dict[str, Any] = {"step": jnp.int32(step)}
    if config.teacher.in_state:
        found["teacher"] = _fitting(shapes, whole.teacher)
    if whole.moments is not None:
        found["optimizer"] = with_moments(state.optimizer, whole.moments)
    return dataclasses.replace(state, **found)


def with_moments(state: optax.OptState, moments: Moments) -> optax.OptState:
    """Returns the optimizer's state with Adam's moments replaced."""
    adam = optax.ScaleByAdamState(
        count=jnp.int32(moments.steps),
        mu=jax.tree.map(jnp.asarray, moments.first),
        nu=jax.tree.map(jnp.asarray, moments.second),
    )
    return tuple(adam if isinstance(part, optax.ScaleByAdamState) else part for part in state)


def notes(config: Config, whole: Whole) -> list[str]:
    """Returns a line for a missing optimizer, and one per option that differs from the file's."""
    found = []
    if whole.moments is None:
        found.append("no optimizer in this file: AdamW starts afresh, with moments of zero")
    ours = config.optimizer
    for name, here in {
        "betas": (ours.b1, ours.b2),
        "eps": ours.eps,
        "weight_decay": ours.weight_decay,
    }.items():
        there = whole.options.get(name, here)
        if (tuple(there) if isinstance(there, list) else there) != here:
            found.append(f"{name} of AdamW: {there} in the file, {here} in the config")
    return found


def _fitting(shapes: Params, params: Params) -> Params:
    """Returns the parameters of a checkpoint after checking that they fit the model."""
    return jax.tree.map(jnp.asarray, assign(shapes, params)[0])


if __name__ == "__main__":
    command.signals.listen()
    app.run(main, flags_parser=command.parse)
