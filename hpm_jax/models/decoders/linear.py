"""No decoder: mask tokens in the encoder's input, and a linear head on its output."""

from typing import Any, ClassVar

import flax.linen as nn
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.models.decoders.decoder import Body, Decoder, DecoderContext, Sizes
from hpm_jax.models.decoders.self_attention import mask_token_init
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.plugs import register
from hpm_jax.tokens import gather


class MaskToken(nn.Module):
    """The token that replaces hidden patches in the encoder's input."""

    width: int
    layout: Layout = LAYOUTS["mae"]

    @nn.compact
    def __call__(self) -> Array:
        """Returns `[1, 1, D]` float32."""
        return self.param("mask_token", mask_token_init(self.layout), (1, 1, self.width))


@register("linear")
class Linear(Decoder):
    """Mask tokens in the encoder, and linear heads on its output (SimMIM, Xie et al. 2022).

    The encoder's input has every position. After the patch embedding, and before positions are
    added, a hidden patch is replaced by a learned token (section 3.2; MaskFeat does the same). Each
    head is a linear map of the encoder's normalised output. `decoder_width`, `decoder_depth` and
    `decoder_heads` have no effect.
    """

    in_place: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """Checks that no teacher is given a part of the image in order to save time."""
        teacher = config.teacher
        if teacher.frame_stride > 1 or teacher.view != "whole":
            raise ConfigError(
                f"config.decoder = {str(self)!r} has a token for every patch in the encoder, so a "
                f"part of the input costs as much as the whole, and config.teacher = "
                f"{str(teacher)!r} would save nothing: frame_stride = 1 and view = 'whole'"
            )

    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns the module of the mask token."""
        return MaskToken(sizes.encoder_width, sizes.layout)

    def tokens(self, entry: Any, context: DecoderContext) -> Array:
        """Returns the encoder's output at the patches asked for, `[B, Q, D]`."""
        features = context.tokens[:, entry.layout.extra_tokens :]
        return features if context.asked is None else gather(features, context.asked)

    def body(self, sizes: Sizes) -> Body:
        """Returns the identity."""
        return lambda tokens, count: tokens

    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns 0."""
        return 0.0

    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns 0."""
        return 0.0

    def body_width(self, sizes: Sizes) -> int:
        """Returns that of the encoder."""
        return sizes.encoder_width

    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns 0."""
        return 0
