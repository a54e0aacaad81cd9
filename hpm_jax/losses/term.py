"""What a term of the loss is: a number of the student's pass, weighted and added to the others."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from hpm_jax.fields import option
from hpm_jax.masking.units import Unit
from hpm_jax.plugs import Plug
from hpm_jax.tokens import Mask


class Own(NamedTuple):
    """What a plug has brought itself."""

    params: Any = None  # from `init`: they learn
    frozen: Any = None  # from `load`: they do not
    state: Any = None  # from `init_state`
    drawn: Any = None  # from `draw`: the random numbers of this step


class Outputs(NamedTuple):
    """What the student's pass gives, patch by hidden patch, before anything is averaged."""

    losses: Array  # [B, M] float32: of the objective; their gradient is the reconstruction's
    predicted: Array | None  # [B, M] float32; None without a loss predictor
    values: Array  # [B, M, D] float32: the prediction of the target
    target: Array  # [B, M, D] float32
    features: Array  # [B, 1 + K, D]: the encoder's output
    patches: Array  # [B, L, P] float32
    mask: Mask
    unit: Unit  # what the mask hides as one
    own: Own = Own()  # of the term that is asked


@dataclasses.dataclass(frozen=True, repr=False)
class Term(Plug, kind="loss"):
    """One term; it is reported under its name, and so are its metrics."""

    weight: float = option(1.0, "of the term in the loss")

    predicts_loss: ClassVar[bool] = False  # whether the model needs a loss predictor for it

    @abc.abstractmethod
    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """The term before its weight, and other numbers to report: float32 scalars."""


def mean_of(losses: Array, mask: Mask) -> Array:
    """The mean of losses `[B, M]` over the hidden patches that count."""
    if mask.counted is None:
        return jnp.mean(losses)
    counted = mask.counted.astype(jnp.float32)
    return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1.0)
