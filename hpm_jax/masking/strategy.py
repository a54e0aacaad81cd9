"""Mask strategies: functions from an image to scores `[B, U]` of its units; the highest are hidden.

A unit is a patch, or a tube: one place in every frame. Counts, schedules, sharding and pictures are
handled elsewhere. To add a strategy, write a class like this one in a file of its own:

    @register("contrast")
    class Contrast(Strategy):
        noise: float = option(1.0, "scale of the noise", low=0, high=1e6)

        def scores(self, key, context): ...
"""

import abc
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.fields import option, share
from hpm_jax.masking.schedule import hard_count
from hpm_jax.plugs import Plug
from hpm_jax.tokens import Grid, Tokenizer

Readings = dict[str, Array]  # outputs of one network for every unit: [B, U], or [B, U, D]


class Context(NamedTuple):
    """The input of a mask strategy."""

    patches: Array  # [B, U, P] float32: the normalised pixels of each unit
    grid: Grid  # (t, h, w) of the units
    tokenizer: Tokenizer
    hidden: int  # largest number of hidden units per image
    n_hard: Array  # int32 scalar, traced: number of hidden units to choose as hard ones
    readings: Mapping[str, Readings] = MappingProxyType(
        {}
    )  # of each of `networks`, by name; {} if none is read
    state: Any = None  # the state of the strategy
    views: int = 1  # number of consecutive rows of one image, each with its own mask

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the scores: (B, U)."""
        return self.patches.shape[0], self.patches.shape[1]


class Strategy(Plug, kind="mask strategy"):
    """Base class of mask strategies."""

    reads: ClassVar[tuple[str, ...]] = ()  # of "predicted_loss", "features", "attention"
    networks: ClassVar[tuple[str, ...]] = ("teacher",)  # read: teacher, student, own (its state)

    @abc.abstractmethod
    def scores(self, key: Array, context: Context) -> Array:
        """Returns `[B, U]` float32; the highest are hidden. Pure, and independent across images."""

    def n_hard(self, epoch: float, epochs: int, hidden: int) -> int:
        """Returns the number of hard units among `hidden` after `epoch` epochs, on the host.

        While it is 0, no network runs, and the readings are zeros.
        """
        return 0

    def hard(self, context: Context) -> Array | None:
        """Returns the units chosen as hard ones, `[B, U]` bool, for pictures; None if unknown."""
        return None


def uniform(key: Array, context: Context) -> Array:
    """Returns uniform scores `[B, U]`: every subset of units is equally likely."""
    return jax.random.uniform(key, context.shape)


def chosen_first(chosen: Array, noise: Array) -> Array:
    """Scores `[B, U]` that hide the chosen units before all others; noise `[B, U]` in [0, 1)."""
    return jnp.where(chosen, 1.0 + noise, noise)


def hardest(difficulty: Array, n_hard: Array) -> Array:
    """Returns the `n_hard` units of each image with the highest difficulty, `[B, U]` bool."""
    rank = jnp.argsort(jnp.argsort(difficulty, axis=1), axis=1)
    return rank >= rank.shape[1] - n_hard


@dataclasses.dataclass(frozen=True, repr=False)
class Shared(Strategy):
    """Base class: some hidden units by difficulty, the rest at random (HPM, section 3.3)."""

    start: float = share(0.0, "fraction of the hidden units chosen as hard, at the start (alpha_0)")
    end: float = share(0.5, "fraction of the hidden units chosen as hard, at the end (alpha_T)")
    schedule: str = option(
        "epoch", "whether the fraction changes once per epoch or at every step",
        choices=("epoch", "step"),
    )  # fmt: skip

    @abc.abstractmethod
    def difficulty(self, context: Context) -> Array:
        """Returns `[B, U]` float32; the `n_hard` highest are always hidden."""

    def n_hard(self, epoch: float, epochs: int, hidden: int) -> int:
        """Returns the number of hard units by the schedule; see `hard_count`."""
        return hard_count(epoch, epochs, hidden, self.start, self.end, self.schedule)

    def hard(self, context: Context) -> Array:
        """Returns the `n_hard` units with the highest difficulty, `[B, U]` bool."""
        return hardest(self.difficulty(context), context.n_hard)

    def scores(self, key: Array, context: Context) -> Array:
        """Returns scores above 1 for hard units, uniform scores below 1 for the rest."""
        noise = uniform(key, context)
        return chosen_first(self.hard(context), noise)
