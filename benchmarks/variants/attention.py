"""Forms of self-attention: `mix` takes query, key and value `[B, heads, N, head width]`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.variants.restated import Params, Restated


def softmax(query: Array, key: Array, value: Array) -> Array:
    """The textbook's form: a softmax in float32, then the product."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value)


def half_scores(query: Array, key: Array, value: Array) -> Array:
    """Scores and exponentials in the dtype of the model; in float32 nothing changes."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    out = jnp.einsum("bhnm,bhmd->bhnd", weights, value)
    return out / weights.sum(axis=-1, keepdims=True, dtype=jnp.float32).astype(value.dtype)


def summed_by_product(query: Array, key: Array, value: Array) -> Array:
    """The sum of the exponentials as one more column of the value: a column of ones."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    scores = scores.astype(jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    ones = jnp.ones_like(value[..., :1])
    columns = jnp.concatenate([value, ones], axis=-1)
    out = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), columns)
    return out[..., :-1] / out[..., -1:]


def by_autodiff(query: Array, key: Array, value: Array) -> Array:
    """The package's forward pass, with the backward pass that autodiff gives it."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    scores = scores.astype(jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    out = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value)
    return out / weights.sum(axis=-1, keepdims=True).astype(value.dtype)


def of_jax(query: Array, key: Array, value: Array) -> Array:
    """`jax.nn.dot_product_attention`, which has the tokens before the heads."""
    swapped = (x.swapaxes(1, 2) for x in (query, key, value))
    return jax.nn.dot_product_attention(*swapped).swapaxes(1, 2)


def flash(query: Array, key: Array, value: Array, multiple: int = 128) -> Array:
    """The Pallas kernel of jax for TPUs; tokens are padded, those added attend to themselves."""
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    asked, length = query.shape[2], key.shape[2]
    padded = [_pad(x, 2, multiple) for x in (query, key, value)]
    segment = _pad(jnp.ones((len(query), length), jnp.int32), 1, multiple)
    out = pallas.flash_attention(
        *padded,
        segment_ids=pallas.SegmentIds(segment[:, : padded[0].shape[2]], segment),
        sm_scale=query.shape[-1] ** -0.5,
    )
    return out[:, :, :asked]


def splash(query: Array, key: Array, value: Array, multiple: int = 128) -> Array:
    """The newer kernel, which takes one image at a time; padded in the same way."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        FullMask,
        MultiHeadMask,
        SegmentIds,
        make_splash_mha_single_device,
    )

    asked, length = query.shape[2], key.shape[2]
    query, key, value = (_pad(x, 2, multiple) for x in (query, key, value))
    heads, rows, long = *query.shape[1:3], key.shape[2]
    segment = (jnp.arange(long) < length).astype(jnp.int32)
    names = [name for name in BlockSizes.__dataclass_fields__ if name.startswith("block_")]
    block = {name: rows if "block_q" in name else long for name in names}
    kernel = make_splash_mha_single_device(
        mask=MultiHeadMask([FullMask((rows, long))] * heads), block_sizes=BlockSizes(**block)
    )
    kernel = functools.partial(kernel, segment_ids=SegmentIds(segment[:rows], segment))
    return jax.vmap(kernel)(query * query.shape[-1] ** -0.5, key, value)[:, :, :asked]


def _pad(x: Array, axis: int, multiple: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths)


def masked(real: int) -> Any:
    """`mix` for padded tokens: keys from `real` on weigh nothing."""

    def mix_of_real(query, key, value):
        scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
        added = jnp.where(jnp.arange(key.shape[2]) < real, 0.0, -jnp.inf)
        scores = scores.astype(jnp.float32) + added
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        out = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value)
        return out / weights.sum(axis=-1, keepdims=True).astype(value.dtype)

    return mix_of_real


def tokens_first(model: Restated, params: Params, x: Array, heads: int, read: int) -> Array:
    """Tokens stay before heads, `[B, N, heads, head width]`: no transpose is written."""
    batch, length, width = x.shape
    qkv = model.dense(params["qkv"], x).reshape(batch, length, 3, heads, width // heads)
    query, key, value = qkv[:, -read:, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum("bnhd,bmhd->bhnm", query * query.shape[-1] ** -0.5, key)
    scores = scores.astype(jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    out = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(x.dtype), value)
    sums = weights.sum(axis=-1).swapaxes(1, 2)[..., None]
    out = (out / sums.astype(x.dtype)).reshape(batch, read, width)
    return model.dense(params["projection"], out)


def split_fused(
    model: Restated, params: Params, x: Array, heads: int, read: int
) -> tuple[Array, ...]:
    """One product for query, key and value, transposed after it; queries nobody asks for too."""
    qkv = model.dense(params, x)
    qkv = qkv.reshape(*x.shape[:2], 3, heads, x.shape[2] // heads)
    query, key, value = qkv.transpose(2, 0, 3, 1, 4)
    return query[:, :, -read:], key, value


def split_by_product(
    model: Restated, params: Params, x: Array, heads: int, read: int
) -> tuple[Array, ...]:
    """One product that writes `[3, B, heads, N, head width]` itself."""
    width = x.shape[2]
    kernel = params["kernel"].astype(x.dtype).reshape(width, 3, heads, width // heads)
    bias = params["bias"].astype(x.dtype).reshape(3, 1, heads, 1, width // heads)
    query, key, value = jnp.einsum("bnw,wshd->sbhnd", x, kernel) + bias
    return query[:, :, -read:], key, value


def join_transposed(model: Restated, params: Params, out: Array) -> Array:
    """Transposed to tokens, then projected."""
    batch, heads, length, width = out.shape
    out = out.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)
    return model.dense(params, out)
