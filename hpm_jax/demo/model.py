"""The model of the demo: the shipped one, or that of a run."""

import importlib.resources
from pathlib import Path
from typing import NamedTuple

from hpm_jax.config import Config, Data
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import masked_autoencoder, masked_autoencoder_params
from hpm_jax.errors import UserError
from hpm_jax.masking import hidden_count
from hpm_jax.masking.units import Unit
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.run.load import load_run
from hpm_jax.step.method import Method
from hpm_jax.step.state import Params
from hpm_jax.targets.pixels import RawPixels
from hpm_jax.tokens import Tokenizer

WEIGHTS = "model.safetensors"  # configs/demo.py trained it
RATIO = 0.75  # its training mask ratio


class DemoError(UserError, ValueError):
    """The demo cannot run; the message has the remedy."""


class DemoModel(NamedTuple):
    """A masked autoencoder with a loss predictor, and its preprocessing."""

    model: MaskedAutoencoder
    method: Method
    student: Params
    teacher: Params  # predicts losses; the student itself if there is no teacher
    data: Data


def shipped_model() -> DemoModel:
    """Loads the small model of `configs/demo.py`: 64 x 64 pixels in 8 x 8 patches."""
    with importlib.resources.as_file(importlib.resources.files(__package__) / WEIGHTS) as path:
        weights = read_weights(path)
    a = weights.architecture
    side = a.grid[1] * a.patch_size
    data = Data(image_size=(side, side), test_crop=1.0)
    method = Method(
        tokenizer=Tokenizer(a.patch, data.mean, data.std),
        unit=Unit(a.grid),
        hidden=hidden_count(a.patches, RATIO),
        width=a.width,
        target=RawPixels(),
    )
    params = masked_autoencoder_params(weights)
    return DemoModel(masked_autoencoder(weights), method, params, params, data)


def model_of_run(workdir: Path) -> DemoModel:
    """Loads the model of a pre-training run on images with a loss predictor.

    Raises:
        DemoError: for another run.
        CheckpointError: if there is no checkpoint.
    """
    config, model, method, state = load_run(workdir)
    if not isinstance(config, Config) or method is None:
        raise DemoError(f"{workdir} is a run of {config.task}: expected one of pre-training")
    if config.data.frames > 1:
        raise DemoError(
            f"{workdir} was trained on videos of {config.data.frames} frames: expected images; "
            "its own pictures/ show its clips"
        )
    if not model.loss_predictor:
        raise DemoError(
            f"{workdir} has no loss predictor, so it cannot say which patches are hard: expected "
            "a run with config.losses = ('ranking',) or ('absolute',)"
        )
    brought = (state.frozen or {}) | (state.plugs or {})
    if method.target.reads or "target" in brought:
        raise DemoError(
            f"{workdir} predicts features ({method.target}), which are no picture: expected a run "
            "on pixels"
        )
    teacher = state.params if state.teacher is None else state.teacher
    return DemoModel(model, method, state.params, teacher, config.data)
