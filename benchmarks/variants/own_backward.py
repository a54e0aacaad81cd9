"""Attention with a backward pass of its own, which keeps less than autodiff does."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from benchmarks.variants.restated import Mix

# from query, key and value: exponentials [B, heads, N, N] in the dtype of the model; in float32
# the largest score of each row, the sum of its exponentials, and their product with the value
Rows = Callable[[Array, Array, Array], tuple[Array, Array, Array, Array]]


def rows(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array, Array]:
    """Sums by reduction."""
    scores = _scores(query, key)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    return weights, largest, total, _product(weights, value)


def rows_by_product(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array, Array]:
    """Sums by one more column of the value, of ones: the product has room for it."""
    scores = _scores(query, key)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest).astype(value.dtype)
    out = _product(weights, jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1))
    return weights, largest, out[..., -1:], out[..., :-1]


def _scores(query: Array, key: Array) -> Array:
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    return scores.astype(jnp.float32)


def _product(weights: Array, value: Array) -> Array:
    return jnp.einsum("bhnm,bhmd->bhnd", weights, value, preferred_element_type=jnp.float32)


def keeps_weights(rows: Rows) -> Mix:
    """Keeps the exponentials, once, in the dtype of the model."""

    def forward(query, key, value):
        weights, _, total, out = rows(query, key, value)
        out = (out / total).astype(value.dtype)
        return out, (query, key, value, weights, total, out)

    def backward(kept, gradient):
        query, key, value, weights, total, out = kept
        return _gradients(query, key, value, weights / total, out, gradient)

    return _with(forward, backward)


def keeps_rows(rows: Rows) -> Mix:
    """Keeps the logarithm of each row's sum, and computes the exponentials again from that.

    The package's own way, with the rows from another function.
    """

    def forward(query, key, value):
        _, largest, total, out = rows(query, key, value)
        out = checkpoint_name((out / total).astype(value.dtype), "attended")
        row = checkpoint_name(largest + jnp.log(total), "rows")
        return out, (query, key, value, out, row)

    def backward(kept, gradient):
        query, key, value, out, row = kept
        weights = jnp.exp(_scores(query, key) - row)
        return _gradients(query, key, value, weights, out, gradient)

    return _with(forward, backward)


def _gradients(
    query: Array, key: Array, value: Array, weights: Array, out: Array, gradient: Array
) -> tuple[Array, Array, Array]:
    """Of query, key and value; `weights` are float32 and sum to 1."""
    scale = query.shape[-1] ** -0.5
    inner = jnp.einsum("bhnd,bhmd->bhnm", gradient, value).astype(jnp.float32)
    mean = jnp.sum(gradient * out, axis=-1, keepdims=True, dtype=jnp.float32)
    scores = (weights * (inner - mean)).astype(value.dtype)
    return (
        jnp.einsum("bhnm,bhmd->bhnd", scores, key) * scale,
        jnp.einsum("bhnm,bhnd->bhmd", scores, query) * scale,
        jnp.einsum("bhnm,bhnd->bhmd", weights.astype(value.dtype), gradient),
    )


def _with(forward: Callable, backward: Callable) -> Mix:
    mixed = jax.custom_vjp(lambda query, key, value: forward(query, key, value)[0])
    mixed.defvjp(forward, backward)
    return mixed
