"""What a hidden patch should become: its pixels, raw or normalised patch by patch."""

import jax.numpy as jnp
from jax import Array


def pixels(patches: Array) -> Array:
    """The (dataset-normalised) pixels themselves, `[B, L, P]`."""
    return patches


def normalized_pixels(patches: Array) -> Array:
    """Each patch less its mean, over `sqrt(var + 1e-6)`, with the unbiased variance (MAE).

    Args:
        patches: `[B, L, P]`; mean and variance are over all P values.
    """
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def patch_statistics(patches: Array) -> tuple[Array, Array]:
    """Mean and `sqrt(var + 1e-6)` of each patch, `[B, L, 1]`: what puts a normalised patch back."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)
