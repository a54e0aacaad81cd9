"""Forms of the relative ranking loss; each has the signature of `hpm_jax.losses.ranking`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def whole_matrix(predicted: Array, loss: Array) -> Array:
    """All ordered pairs at once, as matrices `[B, M, M]`, each pair twice (the official form)."""
    loss = jax.lax.stop_gradient(loss)
    order = jnp.sign(loss[:, :, None] - loss[:, None, :])
    difference = predicted[:, :, None] - predicted[:, None, :]
    cost = -jnp.log(jax.nn.sigmoid(order * difference) + 1e-6)
    counted = jnp.abs(order)
    return jnp.sum(cost * counted) / jnp.maximum(jnp.sum(counted), 1.0)


def triangle(predicted: Array, loss: Array) -> Array:
    """Every pair once, by the indices of the upper triangle."""
    left, right = np.triu_indices(predicted.shape[1], k=1)
    loss = jax.lax.stop_gradient(loss)
    order = jnp.sign(loss[:, left] - loss[:, right])
    cost = -jnp.log(jax.nn.sigmoid(order * (predicted[:, left] - predicted[:, right])) + 1e-6)
    counted = jnp.abs(order)
    return jnp.sum(cost * counted) / jnp.maximum(jnp.sum(counted), 1.0)
