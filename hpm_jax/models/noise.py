"""The noise of diffusion models: how much of a value is left at each step, and what is added."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt32

from hpm_jax.tokens import AnyArray

STEPS = 1000


class Noise(NamedTuple):
    """The noise of each image in a training step."""

    step: Int[AnyArray, " B"]  # from 0 for none to STEPS
    seed: UInt32[AnyArray, "B words"]  # of the image's own random numbers


def draw_noise(key: Array, steps: Int[AnyArray, " B"]) -> Noise:
    """Returns the noise of a batch, an independent seed for each image."""
    return Noise(steps, jax.random.key_data(jax.random.split(key, len(steps))))


def signal_shares() -> np.ndarray:
    """Returns the share of the variance that is left after each step, `[STEPS + 1]` float32.

    The product of `1 - beta`, with beta from 1e-4 to 0.02 in equal steps (Ho et al. 2020, section
    4); 1 at step 0.
    """
    kept = np.cumprod(1.0 - np.linspace(1e-4, 0.02, STEPS))
    return np.concatenate([[1.0], kept]).astype(np.float32)


def noised(values: Float[AnyArray, "B N D"], noise: Noise) -> Float[Array, "B N D"]:
    """Returns `sqrt(a) values + sqrt(1 - a) e` float32, e standard normal, a the share left."""

    def of_image(words: Array) -> Array:
        return jax.random.normal(jax.random.wrap_key_data(words), values.shape[1:])

    share = jnp.asarray(signal_shares())[noise.step][:, None, None]
    drawn = jax.vmap(of_image)(noise.seed)
    return jnp.sqrt(share) * values.astype(jnp.float32) + jnp.sqrt(1.0 - share) * drawn
