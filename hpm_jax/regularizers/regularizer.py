"""Regularizers of fine-tuning: scalars added to the classification loss."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

from jax import Array

from hpm_jax.fields import option
from hpm_jax.models import Classifier
from hpm_jax.plugs import Plug


class Inputs(NamedTuple):
    """The input of a regularizer; every array has a leading axis of images."""

    patches: Array  # [B, L, P] float32, after augmentation
    logits: Array  # [B, classes] float32: those of the first pass, differentiable
    drawn: Any = None  # from `draw_for`
    frozen: Any = None  # from `freeze`
    targets: Any = None  # [B, classes] float32: of the images, after augmentation
    criterion: Any = None  # the `Criterion` of the run: its loss, and its probabilities


@dataclasses.dataclass(frozen=True, repr=False)
class Regularizer(Plug, kind="regularizer"):
    """Base class of regularizers; each is reported under its name."""

    weight: float = option(1.0, "weight of the term in the loss", low=0, high=1e6)

    # FLOPs, in forward passes of the whole image; a backward pass counts two
    forward_passes: ClassVar[float] = 0.0

    def draw_for(self, key: Array, patches: Array) -> Any:
        """Returns random arrays `[B, ...]` of a step, drawn for the whole batch."""

    def freeze(self, start: Any) -> Any:
        """Returns frozen weights, from the weights `{"encoder", ...}` that fine-tuning starts from.

        They are in no checkpoint.
        """

    @abc.abstractmethod
    def __call__(self, model: Classifier, params: Any, inputs: Inputs) -> Array:
        """Returns the unweighted term, a float32 scalar: a mean over the batch."""
