"""Forms of the GELU."""

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.mlp import gelu


@jax.custom_jvp
def keeps_derivative(x: Array) -> Array:
    """The exact GELU, whose derivative is computed at once: all that the backward pass keeps."""
    return gelu(x)


@keeps_derivative.defjvp
def _jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    below = 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))
    density = jnp.exp(-0.5 * x * x) * (2.0 * jnp.pi) ** -0.5
    return x * below, (below + x * density) * tangent


def of_jax(x: Array) -> Array:
    """`jax.nn.gelu`, exact: by erfc."""
    return jax.nn.gelu(x, approximate=False)


def tanh(x: Array) -> Array:
    """The approximation by tanh: another function, by up to 5e-4."""
    return jax.nn.gelu(x, approximate=True)
