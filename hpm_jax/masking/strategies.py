"""Mask strategies: pure functions `(key, context) -> scores [B, L]`, where high means hide.

A new strategy is a function here and a line in `STRATEGIES`; counts, schedules and sharding are
not its business.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.tokens import Grid


class Context(NamedTuple):
    """What a strategy may look at."""

    patches: Array  # [B, L, P] float32: the normalised patches
    grid: Grid  # (t, h, w), static
    n_hard: Array  # int32 scalar, traced: how many of the hidden patches are to be hard ones
    predicted_loss: Array | None  # [B, L] float32: the teacher's; None for whom it is not asked


class Strategy(NamedTuple):
    """A way to score patches, and what it needs."""

    scores: Callable[[Array, Context], Array]
    asks_teacher: bool = False  # whether it reads `predicted_loss`, while `n_hard` is above 0


def random(key: Array, context: Context) -> Array:
    """Uniform scores: every subset of patches is equally likely (MAE)."""
    return jax.random.uniform(key, context.patches.shape[:2])


def hard(key: Array, context: Context) -> Array:
    """The `n_hard` highest predicted losses win, the rest is uniform (HPM)."""
    noise = random(key, context)
    return jnp.where(hardest(context.predicted_loss, context.n_hard), 1.0 + noise, noise)


def hardest(predicted_loss: Array, n_hard: Array) -> Array:
    """True for the `n_hard` patches of each image with the highest predicted loss, `[B, L]`."""
    rank = jnp.argsort(jnp.argsort(predicted_loss, axis=1), axis=1)
    return rank >= rank.shape[1] - n_hard


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(random),
    "hard": Strategy(hard, asks_teacher=True),
}
