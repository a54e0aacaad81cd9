"""Reconstruction objectives: `(prediction, target) -> [B, M]`, never reduced over patches."""

import jax.numpy as jnp
from jax import Array


def squared_error(prediction: Array, target: Array) -> Array:
    """The squared error of each patch, averaged over its values: `[B, M, D]` to `[B, M]`."""
    return jnp.mean(jnp.square(prediction - target), axis=-1)
