"""Masks by image content: units with much detail are hidden first, by two cheap measures.

The units of a clip are compared over all frames.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.fields import option
from hpm_jax.masking.strategy import Context, Strategy
from hpm_jax.plugs import register


@dataclasses.dataclass(frozen=True, repr=False)
class Content(Strategy):
    """Scores by a measure of the pixels, standardised in each image, plus Gumbel noise.

    With noise, units are drawn without replacement with weights `exp(score / noise)`. Without
    noise, the mask is a function of the image.
    """

    noise: float = option(
        1.0, "scale of the Gumbel noise, per standard deviation of the measure", low=0, high=1e6
    )

    @abc.abstractmethod
    def measure(self, luminance: Array) -> Array:
        """Returns `[B, U]` for the luminance `[B, U, frames, rows, columns]`."""

    def scores(self, key: Array, context: Context) -> Array:
        """Returns the standardised measure plus noise, `[B, U]`."""
        measure = self.measure(luminance(context))
        centred = measure - measure.mean(axis=1, keepdims=True)
        deviation = jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True))
        return centred / (deviation + 1e-6) + self.noise * jax.random.gumbel(key, context.shape)


@register("entropy")
class Entropy(Content):
    """Highest entropy of the luminance histogram, `-sum_i p_i log p_i`."""

    bins: int = option(32, "number of bins of the histogram, over [0, 1]", low=2, high=256)

    def measure(self, luminance: Array) -> Array:
        """Returns the entropy in nats; one pass per bin keeps memory constant."""
        values = luminance.reshape(*luminance.shape[:2], -1)
        values = jnp.clip(jnp.floor(values * self.bins), 0, self.bins - 1).astype(jnp.uint8)

        def add(total, bin):
            share = jnp.mean(values == bin, axis=2, dtype=jnp.float32)
            return total + jax.scipy.special.entr(share), None

        nothing = jnp.zeros(luminance.shape[:2], jnp.float32)
        return jax.lax.scan(add, nothing, jnp.arange(self.bins, dtype=jnp.uint8))[0]


@register("gradient")
class Gradient(Content):
    """Highest mean absolute difference of luminance between neighbouring pixels of a unit."""

    def measure(self, luminance: Array) -> Array:
        """Returns the sum over both directions; no difference crosses the border of a unit."""
        total = jnp.zeros(luminance.shape[:2], jnp.float32)
        for axis in (-2, -1):
            if luminance.shape[axis] > 1:
                total += jnp.abs(jnp.diff(luminance, axis=axis)).mean(axis=(2, 3, 4))
        return total


def luminance(context: Context) -> Array:
    """Returns `[B, U, frames, rows, columns]` in [0, 1]: Rec. 601 of RGB, else the channel mean."""
    tokenizer = context.tokenizer
    channels = tokenizer.channels
    weight = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.full(channels, 1 / channels)
    scale = jnp.asarray(weight * tokenizer.std, jnp.float32)
    pixels = context.patches.reshape(*context.shape, -1, *tokenizer.patch_size[1:], channels)
    return jnp.sum(pixels * scale, axis=-1) + float(weight @ tokenizer.mean)
