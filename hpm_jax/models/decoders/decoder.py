"""What a decoder is: from the encoder's output to one vector for each patch that is predicted.

The model has two heads, one for the target and one for the loss. Both have a decoder of the same
kind with parameters of their own; what precedes them, such as mask tokens, they share.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from hpm_jax.models.layouts import Layout
from hpm_jax.plugs import Plug
from hpm_jax.tokens import Grid

Body = Callable[[Any, int], Array]  # (tokens, count) -> [B, count, width], within a module


class Sizes(NamedTuple):
    """The facts of a model that its decoders depend on."""

    grid: Grid
    values: int  # of a patch, P
    encoder_width: int  # D
    encoder_depth: int
    width: int  # `decoder_width` of the model
    stack: Mapping[str, Any]  # arguments of a stack of blocks: depth, heads, remat and others
    layout: Layout
    dtype: Any

    @property
    def length(self) -> int:
        """Number of patches, L."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def extra(self) -> int:
        """Number of tokens before the patch tokens of the encoder: cls token and registers."""
        return self.layout.extra_tokens


class DecoderContext(NamedTuple):
    """The input of a decoder."""

    tokens: Array  # [B, 1 + K, D]: the encoder's output, in the order of `keep`
    blocks: tuple[Array, ...]  # [B, 1 + K, D] each: the blocks of `Decoder.collect`
    keep: Array | None  # [B, K]: the visible patches; None if all are visible, in order
    hide: Array | None  # [B, M]: the hidden patches; None for none
    # [B, Q]: the patches to predict; None for all, in order. They are `hide`, or `keep` and `hide`
    asked: Array | None
    patches: Array | None = None  # [B, L, P]: all patches; None outside of the student's pass
    drawn: Any = None  # from `draw`: the random numbers of a training step; None in evaluations

    @property
    def images(self) -> int:
        """Number of images, B."""
        return len(self.tokens)


class Decoder(Plug, kind="decoder"):
    """Base class of decoders.

    `entry` is shared by both heads, `body` is built once for each. Both follow `hpm_jax.models` in
    dtype, rematerialisation and sharding, by `Sizes`.
    """

    # whether hidden patches stay in the encoder's input, each replaced by a mask token
    in_place: ClassVar[bool] = False
    predicts: ClassVar[bool] = True  # whether anything of hidden patches is predicted
    # whether what both bodies read are predictions of the encoder's output, [B, Q, D]
    latent: ClassVar[bool] = False
    share: float = 1.0  # fraction of the hidden patches that are predicted in a training step

    @property
    def architecture(self) -> "Decoder":
        """The same with every option on which no parameter depends at its default."""
        return self

    def collect(self, depth: int) -> tuple[int, ...]:
        """Returns the blocks of an encoder of `depth` whose outputs it needs; see `Encoder`."""
        return ()

    @abc.abstractmethod
    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns the module `decoder_input` of the model."""

    @abc.abstractmethod
    def tokens(self, entry: Any, context: DecoderContext) -> Any:
        """Returns the input of both bodies; `entry` is the module of that name, bound."""

    @abc.abstractmethod
    def body(self, sizes: Sizes) -> Body:
        """Returns `(tokens, count) -> [B, count, width]` for the patches asked for."""

    @abc.abstractmethod
    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of `tokens` for `asked` patches, with `seen` patches encoded."""

    @abc.abstractmethod
    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of one body for `asked` patches."""

    def body_width(self, sizes: Sizes) -> int:
        """Returns the width of what a body returns."""
        return sizes.width

    @abc.abstractmethod
    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns the number of attention weights of one block of a body, per image."""
