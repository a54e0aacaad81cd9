"""Terms of the loss: scalars computed from the student's pass, weighted and summed."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from hpm_jax.data.records import Splits
from hpm_jax.fields import option
from hpm_jax.masking.units import Unit
from hpm_jax.plugs import Plug
from hpm_jax.tokens import Grid, Mask, Tokenizer

ANNOTATIONS = ("label",)  # what a step can take of each example beside its image


class Own(NamedTuple):
    """The arrays of one plug."""

    params: Any = None  # from `init`: trained
    frozen: Any = None  # from `load`: not trained
    state: Any = None  # from `init_state`
    drawn: Any = None  # from `draw`: the random numbers of this step
    teacher: Any = None  # the teacher's copy of `params`, as it follows the student


class Outputs(NamedTuple):
    """The outputs of the student's pass for each hidden patch, before any average."""

    losses: Array  # [B, M] float32: values of the objective, differentiable
    predicted: Array | None  # [B, M] float32; None without a loss predictor
    values: Array  # [B, M, D] float32: the prediction of the target
    target: Array  # [B, M, D] float32
    features: Array  # [B, 1 + K, D]: the encoder's output
    patches: Array  # [B, L, P] float32
    mask: Mask
    unit: Unit  # the unit of masking
    own: Own = Own()  # arrays of the term itself
    whole_target: Any = None  # [B, L, D] float32: the target of every patch, without gradient
    blocks: Any = None  # by number, from 1: [B, 1 + K, D], outputs of `Term.student_blocks`
    latents: Any = None  # ([B, M, D], [B, M, D]), see `Prediction.latents`, where a term takes them
    heads: Any = None  # by number, of `Term.related_blocks`: [B, heads, 1 + K, D / heads], thrice
    readings: Any = None  # by name, what `Term.reads` of the teacher: [B, L] or [B, L, D]
    tokenizer: Any = None  # the `Tokenizer` of the run, for terms
    sizes: Any = None  # of the model's decoders, see `hpm_jax.models.decoders.Sizes`
    views: int = 1  # masks of each image, in rows one after the other
    annotations: Any = None  # by name, what `Term.annotations` of each example: [B, ...]
    whole_features: Any = None  # [B, 1 + L, D]: the student's features of the whole image


@dataclasses.dataclass(frozen=True, repr=False)
class Term(Plug, kind="loss"):
    """Base class of loss terms; a term and its metrics are reported under its name."""

    weight: float = option(1.0, "weight of the term in the loss", low=-1e6, high=1e6)

    predicts_loss: ClassVar[bool] = False  # whether it needs a loss predictor
    student_blocks: ClassVar[tuple[int, ...]] = ()  # blocks of the student's encoder, from 1
    # those whose query, key and value are taken, from 1, or from the end
    related_blocks: ClassVar[tuple[int, ...]] = ()
    arrays_of: ClassVar[str] = ""  # the slot whose `Own` the term gets; "" for that of its name
    reads: ClassVar[tuple[str, ...]] = ()  # outputs of the teacher, as `Target.reads`
    of_hidden: ClassVar[bool] = False  # whether it takes predictions of hidden patches
    takes_latents: ClassVar[bool] = False  # whether it takes `Outputs.latents`
    annotations: ClassVar[tuple[str, ...]] = ()  # of each example beside its image: "label"
    whole_image: ClassVar[bool] = False  # whether the student also encodes the whole image
    of_visible: ClassVar[bool] = True  # whether it takes anything of the student's masked pass

    def check_data(self, splits: Splits) -> None:
        """Raises a `DataError` if the data lack what the term reads of each example."""

    def whole_input(self, patches: Array, grid: Grid, tokenizer: Tokenizer, drawn: Any) -> Array:
        """Returns what the student sees as the whole image, where `whole_image` says so.

        Args:
            patches: `[B, L, P]`, normalised.
            drawn: from `draw`.
        """
        return patches

    @abc.abstractmethod
    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the unweighted term and other metrics to report: float32 scalars."""


def mean_of(losses: Array, mask: Mask) -> Array:
    """Returns the mean of losses `[B, M]` over the hidden patches that count."""
    if mask.counted is None:
        return jnp.mean(losses)
    counted = mask.counted.astype(jnp.float32)
    return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1.0)
