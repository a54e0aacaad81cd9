"""One linear map from each patch token to the classes."""

from typing import Any

import flax.linen as nn
from jax import Array

from hpm_jax.models.segment_decoders.decoder import Decoded, SegmentDecoder, SegmentSizes
from hpm_jax.plugs import register


@register("linear_head")
class LinearHead(SegmentDecoder):
    """A linear layer on the patch tokens after the last norm (Kerssies et al. 2024, 2404.12172)."""

    def module(self, sizes: SegmentSizes) -> nn.Module:
        """Returns the layer; it computes in float32."""
        return nn.Dense(sizes.classes, kernel_init=nn.initializers.normal(sizes.head_std))

    def decode(
        self, module: Any, maps: tuple[Array, ...], drawn: Any = None, train: bool = False
    ) -> Decoded:
        """Returns one vector of logits for each patch."""
        return Decoded(module(maps[-1].astype("float32")), {})

    def flops(self, sizes: SegmentSizes, train: bool = True) -> float:
        """Returns the operations of the product."""
        return 2 * sizes.grid[0] * sizes.grid[1] * sizes.width * sizes.classes
