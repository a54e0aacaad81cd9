"""The pre-trained encoder that a dense task starts from."""

from collections.abc import Callable
from typing import Any

from hpm_jax.convert.read import read_weights
from hpm_jax.errors import ConfigError
from hpm_jax.models.positions import encoder_on_grid
from hpm_jax.step.state import Params
from hpm_jax.tokens import Grid


def image_encoder(config: Any, grid: Grid, what: str, say: Callable[[str], None]) -> Params:
    """Returns the encoder of `config.init_from`, with its positions resized to the grid of a crop.

    Args:
        what: name of the task in the message.

    Raises:
        ConfigError: for an encoder of videos.
    """
    weights = read_weights(config.init_from, config.weights)
    before = weights.architecture.grid
    if before[0] * weights.architecture.tubelet > 1:
        raise ConfigError(
            f"config.init_from = {config.init_from!r} is an encoder of videos, and {what} is of "
            "images: give an encoder of images"
        )
    if before != grid:
        old, new = (" x ".join(map(str, one[1:])) for one in (before, grid))
        say(f"positions resized from {old} to {new}")
    return encoder_on_grid(weights.params["encoder"], before, grid)
