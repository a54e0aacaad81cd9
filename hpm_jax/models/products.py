"""The product of tokens and a kernel, with a backward pass of its own on CPUs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.compiled_for import platform

EQUATION = "bnw,wd->bnd"  # of tokens and a kernel


@jax.custom_vjp
def cpu_product(tokens: Array, kernel: Array) -> Array:
    """Multiplies tokens `[..., W]` by a kernel `[W, D]`: `[..., D]`.

    The backward pass contracts the rows of tokens and gradient as they are in memory. XLA for CPUs
    otherwise computes them a second time, transposed, together with the operations before them; the
    barrier prevents that, and one contracted axis the same copies in products of several.
    """
    return jnp.einsum("...w,wd->...d", tokens, kernel)


def _forward(tokens: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return cpu_product(tokens, kernel), (tokens, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    tokens, kernel = kept
    rows = tokens.reshape(-1, tokens.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    inputs, outputs = jax.lax.optimization_barrier(rows)
    of_kernel = jax.lax.dot_general(inputs, outputs, (((0,), (0,)), ((), ())))
    return (outputs @ kernel.T).reshape(tokens.shape), of_kernel


cpu_product.defvjp(_forward, _backward)


def product(equation: str, tokens: Array, kernel: Array) -> Array:
    """Computes `einsum(equation, tokens, kernel)`, on CPUs by `cpu_product` for `EQUATION`."""
    if equation == EQUATION and platform() == "cpu":
        return cpu_product(tokens, kernel)
    return jnp.einsum(equation, tokens, kernel)


def dot_general(tokens: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """Computes `jax.lax.dot_general` of `nn.Dense`, on CPUs by `cpu_product`."""
    if platform() == "cpu":
        return cpu_product(tokens, kernel)
    return jax.lax.dot_general(tokens, kernel, dimensions, **options)
