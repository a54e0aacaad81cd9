"""The pre-norm transformer block, and a stack of them: scanned, so depth costs no compile time."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())

# What the backward pass may keep from the forward pass, by name in a config.
REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def layer_norm(dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """Layer normalisation with the eps of MAE, 1e-6; flax keeps its statistics in float32."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


def gelu(x: Array) -> Array:
    """The exact GELU, by erf: `jax.nn.gelu` goes by erfc, which takes longer on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


class Attention(nn.Module):
    """Self-attention with one fused projection for query, key and value (timm's layout)."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape
        if width % self.heads:
            raise ValueError(f"width {width} does not split into {self.heads} heads")
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.transpose(2, 0, 3, 1, 4)  # each [B, heads, N, head width]
        scores = jnp.einsum("bhnd,bhmd->bhnm", query * (width // self.heads) ** -0.5, key)
        # softmax in float32, divided after the product: N x N divisions fewer, the same numbers
        scores = scores.astype(jnp.float32)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        out = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(self.dtype), value)
        out = out / weights.sum(axis=-1, keepdims=True).astype(self.dtype)
        out = out.transpose(0, 2, 1, 3).reshape(batch, length, width)
        return Dense(width, dtype=self.dtype, name="projection")(out)


class Block(nn.Module):
    """`x += attention(norm(x)); x += mlp(norm(x))`, written as the body of a scan."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, _: None = None) -> tuple[Array, None]:
        width = x.shape[-1]
        x = x + Attention(self.heads, self.dtype, name="attention")(layer_norm(self.dtype)(x))
        hidden = Dense(4 * width, dtype=self.dtype)(layer_norm(self.dtype)(x))
        x = x + Dense(width, dtype=self.dtype)(gelu(hidden))
        return x, None


class Stack(nn.Module):
    """`depth` blocks with their parameters stacked on a leading axis, then a layer norm.

    Attributes:
        remat: a name in `REMAT_POLICIES`.
        unroll: how many blocks the compiler sees at once; more runs faster and compiles slower.
    """

    depth: int
    heads: int
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=REMAT_POLICIES[self.remat])
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
            unroll=self.unroll,
        )
        x, _ = blocks(self.heads, self.dtype, name="blocks")(x, None)
        return layer_norm(self.dtype, name="norm")(x)
