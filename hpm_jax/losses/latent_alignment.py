"""A loss between predicted features of hidden patches and the output of the encoder for them."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.losses.term import Outputs, Term, mean_of
from hpm_jax.models.flops import encoder_flops
from hpm_jax.plugs import Setting, register


@register("latent_alignment")
class LatentAlignment(Term):
    """The squared error of predicted features of hidden patches (CAE, Chen et al. 2022).

    The encoder itself sees the hidden patches alone, without gradient (section 3.1, alignment). The
    decoder has to predict features: `latent_regressor`.
    """

    weight: float = option(2.0, "weight of the term in the loss", low=-1e6, high=1e6)

    takes_latents: ClassVar[bool] = True
    of_hidden: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """The decoder has to predict features."""
        if not config.decoder.latent:
            raise ConfigError(
                f"config.losses has {str(self)!r}, which compares features of hidden patches, and "
                f"config.decoder = {str(config.decoder)!r} predicts none: "
                "--config.decoder=latent_regressor"
            )

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the mean over hidden patches that count and values."""
        predicted, target = (x.astype(jnp.float32) for x in outputs.latents)
        return mean_of(jnp.square(predicted - target).mean(axis=-1), outputs.mask), {}

    def step_flops(self, setting: Setting) -> float:
        """Returns the operations of the encoder on the hidden patches, without a backward pass."""
        s = setting.sizes
        return encoder_flops(setting.hidden, s.values, s.encoder_width, s.encoder_depth, s.layout)
