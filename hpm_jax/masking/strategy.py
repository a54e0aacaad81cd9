"""What a mask strategy is: scores `[B, U]` of the units of each image, where high means hide.

A unit is a patch, or a tube: the same place in every frame. Counts, schedules, sharding and
pictures are not a strategy's business. A new one is a class of this kind in a file of its own:

    @register("contrast")
    class Contrast(Strategy):
        noise: float = option(1.0, "of the scores", low=0)

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

Readings = dict[str, Array]  # what one onlooker says of every unit: [B, U], or [B, U, D]


class Context(NamedTuple):
    """What a strategy may look at."""

    patches: Array  # [B, U, P] float32: the normalised pixels of each unit
    grid: Grid  # (t, h, w) of the units
    tokenizer: Tokenizer
    hidden: int  # units that are hidden in each image, at most
    n_hard: Array  # int32 scalar, traced: how many of the hidden units are to be hard ones
    seen: Mapping[str, Readings] = MappingProxyType(
        {}
    )  # what each of `onlookers` says; {} where none is asked
    state: Any = None  # the strategy's own
    views: int = 1  # rows in a row that are of one image, each with a mask of its own

    @property
    def shape(self) -> tuple[int, int]:
        """Of the scores: (B, U)."""
        return self.patches.shape[0], self.patches.shape[1]


class Strategy(Plug, kind="mask strategy"):
    """A way to score units."""

    reads: ClassVar[tuple[str, ...]] = ()  # of "predicted_loss", "features", "attention"
    onlookers: ClassVar[tuple[str, ...]] = ("teacher",)  # of teacher, student, own: its state

    @abc.abstractmethod
    def scores(self, key: Array, context: Context) -> Array:
        """`[B, U]` float32; the highest are hidden. Pure, and independent from image to image."""

    def n_hard(self, epoch: float, epochs: int, hidden: int) -> int:
        """How many of `hidden` units are to be hard after `epoch` epochs; on the host.

        While it is 0 nobody is asked, and the readings are zeros.
        """
        return 0

    def hard(self, context: Context) -> Array | None:
        """True for the units that are hidden because they are hard, `[B, U]`, for the picture."""
        return None


def uniform(key: Array, context: Context) -> Array:
    """Uniform scores `[B, U]`: every subset of units is equally likely."""
    return jax.random.uniform(key, context.shape)


def hardest(difficulty: Array, n_hard: Array) -> Array:
    """True for the `n_hard` units of each image with the highest difficulty, `[B, U]`."""
    rank = jnp.argsort(jnp.argsort(difficulty, axis=1), axis=1)
    return rank >= rank.shape[1] - n_hard


@dataclasses.dataclass(frozen=True, repr=False)
class Shared(Strategy):
    """Some of the hidden units by a difficulty, the rest at random: HPM's frame (section 3.3)."""

    start: float = share(0.0, "the share of the hidden that are chosen, at the start (alpha_0)")
    end: float = share(0.5, "and at the end (alpha_T)")
    schedule: str = option(
        "epoch", "whether the share moves from epoch to epoch or with every step",
        choices=("epoch", "step"),
    )  # fmt: skip

    @abc.abstractmethod
    def difficulty(self, context: Context) -> Array:
        """`[B, U]` float32; the `n_hard` highest are hidden whatever the key says."""

    def n_hard(self, epoch: float, epochs: int, hidden: int) -> int:
        """By the schedule; see `hard_count`."""
        return hard_count(epoch, epochs, hidden, self.start, self.end, self.schedule)

    def hard(self, context: Context) -> Array:
        """The `n_hard` units with the highest difficulty."""
        return hardest(self.difficulty(context), context.n_hard)

    def scores(self, key: Array, context: Context) -> Array:
        """Above 1 for the hard ones, uniform below 1 for the rest."""
        noise = uniform(key, context)
        return jnp.where(self.hard(context), 1.0 + noise, noise)
