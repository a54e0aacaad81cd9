"""What a decoder is: from the encoder's output to one vector for each patch that is predicted.

The model has two heads, one for the target and one for the loss. Both have a decoder of the same
kind with parameters of their own; what precedes them, such as mask tokens, they share.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from hpm_jax.models.layers import Outputs
from hpm_jax.models.layouts import Layout
from hpm_jax.plugs import Plug
from hpm_jax.tokens import Grid

Encoded = Outputs  # tokens [B, 1 + K, D], and the blocks of `Decoder.collect`
Body = Callable[[Any, int], Array]  # (tokens, count) -> [B, count, width], within a module


class Sizes(NamedTuple):
    """The facts of a model that its decoders depend on."""

    grid: Grid
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


class Decoder(Plug, kind="decoder"):
    """Base class of decoders.

    `entry` is shared by both heads, `body` is built once for each. Both follow `hpm_jax.models` in
    dtype, rematerialisation and sharding, by `Sizes`.
    """

    # whether hidden patches stay in the encoder's input, each replaced by a mask token
    in_place: ClassVar[bool] = False
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
    def tokens(
        self, entry: Any, encoded: Encoded, keep: Array | None, hide: Array | None, asked: Any
    ) -> Any:
        """Returns the input of both bodies.

        Args:
            entry: the module of `entry`, bound.
            encoded: the encoder's output, in the order of `keep`.
            keep: `[B, K]` indices of the visible patches; None if all are visible, in order.
            hide: `[B, M]` indices of the hidden patches; None for none.
            asked: `[B, Q]` indices of the patches to predict; None for all, in order. They are
                `hide`, or `keep` and then `hide`.
        """

    @abc.abstractmethod
    def body(self, sizes: Sizes) -> Body:
        """Returns `(tokens, count) -> [B, count, width]` for the patches asked for."""

    @abc.abstractmethod
    def entry_flops(self, sizes: Sizes, seen: int) -> float:
        """Returns the operations of `tokens`, with `seen` patches encoded."""

    @abc.abstractmethod
    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of one body for `asked` patches."""

    def body_width(self, sizes: Sizes) -> int:
        """Returns the width of what a body returns."""
        return sizes.width

    @abc.abstractmethod
    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns the number of attention weights of one block of a body, per image."""
