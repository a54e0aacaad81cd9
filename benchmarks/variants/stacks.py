"""Forms of the stacks of blocks: two decoders at once, fewer tokens at the end, padded tokens."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.variants.attention import masked
from benchmarks.variants.restated import Params, Restated, norm, scan


def both_at_once(model: Restated, params: Params, tokens: Array, count: int) -> tuple[Array, Array]:
    """Both decoders as one, of parameters `[2, depth, ...]`, on the same tokens."""
    rebuilt, predictor = params["reconstructor"], params["predictor"]
    both = jax.tree.map(
        lambda *pair: jnp.stack(pair), rebuilt["transformer"], predictor["transformer"]
    )
    heads = model.sizes.decoder_heads

    def decode(stack):
        return model.stack(model, stack, tokens, heads, count)

    out = jax.vmap(decode)(both)
    values = model.dense(rebuilt["head"], out[0]).astype(jnp.float32)
    return values, model.loss_head(predictor, out[1].astype(jnp.float32))


def last_block_whole(model: Restated, params: Params, x: Array, heads: int, count: int) -> Array:
    """The last block computes all tokens, of which `count` are read."""
    return norm(params["norm"], scan(model, params["blocks"], x, heads))[:, -count:]


def padded(multiple: int) -> Callable[..., Array]:
    """A stack whose tokens are padded to a multiple, with keys that weigh nothing."""

    def stack(model, params, x, heads, count):
        real = x.shape[1]
        x = jnp.pad(x, [(0, 0), (0, -real % multiple), (0, 0)])
        x = scan(dataclasses.replace(model, mix=masked(real)), params["blocks"], x, heads)
        return norm(params["norm"], x[:, real - count : real])

    return stack
