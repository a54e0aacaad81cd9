"""N-JEPA's predictor: mask tokens whose positions are disturbed by noise."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.models.decoders.decoder import Decoder, DecoderContext
from hpm_jax.models.decoders.self_attention import SelfAttention
from hpm_jax.models.noise import STEPS, Noise, draw_noise, noised
from hpm_jax.plugs import register
from hpm_jax.tokens import Mask


@register("noisy_positions")
class NoisyPositions(SelfAttention):
    """MAE's decoder whose mask tokens have noisy positions while it trains (N-JEPA).

    One of `levels` is drawn for each image and step, and the position p of each mask token becomes
    `sqrt(a) p + sqrt(1 - a) e`, with e standard normal and a the share of the variance that is left
    after so many steps of a diffusion model (`hpm_jax/models/noise.py`). Evaluations, pictures and
    the teacher have no noise. The levels are ours: the paper's are not published with its abstract.
    """

    levels: tuple[int, ...] = option(
        (0, 100, 200, 300),
        f"steps of noise, of {STEPS}, one of which is drawn for each image; 0 for no noise",
        low=0,
        high=STEPS,
    )

    @property
    def architecture(self) -> Decoder:
        """MAE's decoder: noise has no parameters."""
        return SelfAttention(block=self.block)

    def check(self, config: Any) -> None:
        """There has to be a level."""
        super().check(config)
        if not self.levels:
            raise ConfigError(
                f"config.decoder = {str(self)!r}: expected one level or more, as in levels=(0, 100)"
            )

    def draw(self, key: Array, mask: Mask) -> Noise:
        """Returns the level of each image and the seed of its noise."""
        level_key, seed_key = jax.random.split(key)
        levels = jnp.asarray(self.levels, jnp.int32)
        count = mask.hide.shape[0]
        return draw_noise(seed_key, jax.random.choice(level_key, levels, (count,)))

    def tokens(self, entry: Any, context: DecoderContext) -> Array:
        """Returns all tokens `[B, 1 + K + M, width]`, those asked for last."""
        if context.drawn is None:
            return super().tokens(entry, context)

        def moved(positions: Array) -> Array:
            return noised(positions, context.drawn).astype(positions.dtype)

        features = context.blocks[0] if context.blocks else context.tokens
        return entry(features, context.keep, context.hide, moved)
