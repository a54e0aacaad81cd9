"""Strategies that draw a pattern on the grid of one frame."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.masking.strategy import Context, Strategy


class Frames(NamedTuple):
    """The frames of a batch: one for an image or for tubes, t for the free tokens of a clip."""

    batch: int  # frames of all images together, N
    height: int
    width: int
    kept: int  # units that every frame keeps, at least 1
    hidden: int  # units that every frame hides, at least 1


class Spatial(Strategy):
    """A pattern in space. On a grid with t > 1 each frame is drawn by itself.

    The frames of a clip hide equally many units. Where the count does not divide by t, some frames
    chosen at random hide one more.
    """

    @abc.abstractmethod
    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """`[N, h, w]` float32 of frames that are independent; the highest are hidden."""

    def scores(self, key: Array, context: Context) -> Array:
        """Those of the frames; of a clip the ranks in each frame, so that frames are comparable."""
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
    """The rank of each score along the last axis, from 0 for the lowest, float32."""
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1).astype(jnp.float32)
