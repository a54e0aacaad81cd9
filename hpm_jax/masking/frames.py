"""Base class of strategies that draw a pattern on the grid of one frame."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.masking.strategy import Context, Strategy


class Frames(NamedTuple):
    """The frames of a batch: one per image or per clip of tubes, t per clip of patches."""

    batch: int  # frames of all images together, N
    height: int
    width: int
    kept: int  # number of units that every frame keeps, at least 1
    hidden: int  # number of units that every frame hides, at least 1


class Spatial(Strategy):
    """A spatial pattern. On a grid with t > 1 each frame is drawn independently.

    All frames of a clip hide the same number of units. If the count is not divisible by t, some
    frames chosen at random hide one more.
    """

    @abc.abstractmethod
    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns `[N, h, w]` float32 for independent frames; the highest are hidden."""

    def scores(self, key: Array, context: Context) -> Array:
        """Returns the frames' scores; for a clip their ranks in each frame, which compare."""
        t, h, w = context.grid
        batch, units = context.shape
        kept, hidden = max((units - context.hidden) // t, 1), max(context.hidden // t, 1)
        frames = Frames(batch * t, h, w, kept, hidden)
        if t == 1:
            return self.frame_scores(key, frames).reshape(batch, units)
        pattern_key, order_key = jax.random.split(key)
        scores = self.frame_scores(pattern_key, frames).reshape(batch, t, h * w)
        order = jax.random.uniform(order_key, (batch, t, 1))
        return (ranks(scores) + order).reshape(batch, units)


def in_order(config: Any, name: str, low: float, high: float, equal: bool = True) -> None:
    """Raises a `ConfigError` unless two options of the config's strategy are in order."""
    if not (low < high or (equal and low == high)):
        raise ConfigError(
            f"config.mask.strategy = {str(config.mask.strategy)!r}: {name} = {low:g}, {high:g}, "
            "expected the smaller one first"
        )


def ranks(scores: Array) -> Array:
    """Returns the rank of each score along the last axis, from 0 for the lowest, float32."""
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1).astype(jnp.float32)
