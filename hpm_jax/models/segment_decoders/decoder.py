"""What a decoder of segmentation is: from an encoder's feature maps to the logits of classes."""

import abc
from typing import Any, NamedTuple

import flax.linen as nn
from jax import Array

from hpm_jax.plugs import Plug


class SegmentSizes(NamedTuple):
    """The facts of a segmenter that its decoder depends on."""

    grid: tuple[int, int]  # of patches: h, w
    width: int  # of the feature maps, D
    classes: int
    head_std: float  # standard deviation of the initial weights of classifiers
    dtype: Any


class Decoded(NamedTuple):
    """The logits of a decoder, `[B, rows, columns, classes]` float32, at a size of its own."""

    logits: Array
    # in training, by name: the weight of a further loss, and the logits that it is of
    auxiliary: dict[str, tuple[float, Array]]


class SegmentDecoder(Plug, kind="segmentation decoder"):
    """Base class of the decoders of segmentation.

    A decoder may keep running averages (flax's collection "batch_stats"): `state.plugs["head"]`.
    """

    def blocks_of(self, depth: int) -> tuple[int, ...]:
        """Returns the blocks that it reads, from 1, of an encoder of `depth`.

        () stands for the output of the encoder after its last norm.
        """
        return ()

    @abc.abstractmethod
    def module(self, sizes: SegmentSizes) -> nn.Module:
        """Returns the module `head` of the segmenter."""

    @abc.abstractmethod
    def decode(
        self, module: Any, maps: tuple[Array, ...], drawn: Any = None, train: bool = False
    ) -> Decoded:
        """Computes logits.

        Args:
            module: that of `module`, bound.
            maps: `[B, h, w, D]` each: of `blocks_of`, or one of the encoder's output.
            drawn: from `draw_for`; None draws nothing.
            train: whether the statistics of norms are those of the batch, and auxiliary logits
                are computed.
        """

    def draw_for(self, key: Array, count: int) -> Any:
        """Returns random arrays `[count, ...]` of a step, drawn for the whole batch."""

    @abc.abstractmethod
    def flops(self, sizes: SegmentSizes, train: bool = True) -> float:
        """Returns the operations of a forward pass for one image; see `hpm_jax/models/flops.py`."""
