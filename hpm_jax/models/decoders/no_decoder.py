"""No prediction of hidden patches: the loss is on what the student sees."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from hpm_jax.errors import ConfigError
from hpm_jax.models.decoders.decoder import Body, Decoder, DecoderContext, Sizes
from hpm_jax.plugs import Plug, register


class NoTokens(nn.Module):
    """A module without parameters."""


@register("no_decoder")
class NoDecoder(Decoder):
    """Nothing of hidden patches is predicted (MaskAlign, Xue et al. 2023).

    The terms of the loss read the encoder's output at visible patches alone, as
    `dynamic_alignment`, `distillation` and `visible` do. There is no reconstruction, and no loss of
    a hidden patch that a loss predictor could learn. Where a prediction is drawn or measured it is
    0. `decoder_width`, `decoder_depth` and `decoder_heads` have no effect.
    """

    predicts: ClassVar[bool] = False

    def check(self, config: Any) -> None:
        """Checks that nothing needs a prediction of hidden patches."""
        name = f"config.decoder = {str(self)!r} predicts nothing of hidden patches"
        for term in config.terms:
            if term.of_hidden:
                reason = ", so there are no losses to rank" if term.predicts_loss else ""
                raise ConfigError(
                    f"{name}{reason}, and config.losses has {str(term)!r}: leave it out, or choose "
                    "another decoder"
                )
        if type(config.mask.strategy).observe is not Plug.observe:
            raise ConfigError(
                f"{name}, and config.mask.strategy = {str(config.mask.strategy)!r} learns from the "
                "losses of hidden patches: mask at random, or by attention of the teacher"
            )

    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns a module without parameters."""
        return NoTokens()

    def tokens(self, entry: Any, context: DecoderContext) -> int:
        """Returns the number of images."""
        return context.images

    def body(self, sizes: Sizes) -> Body:
        """Returns a function that gives zeros, one for each patch."""
        return lambda images, count: jnp.zeros((images, count, 1), sizes.dtype)

    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns 0."""
        return 0.0

    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns 0."""
        return 0.0

    def body_width(self, sizes: Sizes) -> int:
        """Returns 1."""
        return 1

    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns 0."""
        return 0
