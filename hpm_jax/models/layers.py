"""The pre-norm transformer block, and a stack of them: scanned, so depth costs no compile time."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())
# PyTorch's own start of a linear layer: uniform within 1 / sqrt(inputs)
pytorch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

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
    """Self-attention with one fused projection for query, key and value (timm's layout).

    Attributes:
        key_bias: whether keys have a bias too; without it the parameter is `[2, D]`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape
        if width % self.heads:
            raise ValueError(f"width {width} does not split into {self.heads} heads")
        qkv = Dense(3 * width, dtype=self.dtype, use_bias=self.key_bias, name="qkv")(x)
        if not self.key_bias:
            zeros = nn.initializers.zeros
            query, value = self.param("query_value_bias", zeros, (2, width)).astype(self.dtype)
            qkv = qkv + jnp.concatenate([query, jnp.zeros_like(query), value])
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
    """`x += attention(norm(x)); x += mlp(norm(x))`, written as the body of a scan.

    `drop` `[2, B]` multiplies the two branches, image by image; see `drop_paths`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, drop: Array | None = None) -> tuple[Array, None]:
        width = x.shape[-1]
        attention = Attention(self.heads, self.dtype, self.key_bias, name="attention")
        attended = attention(layer_norm(self.dtype)(x))
        x = x + (attended if drop is None else attended * _factor(drop[0], x))
        hidden = Dense(4 * width, dtype=self.dtype)(layer_norm(self.dtype)(x))
        mixed = Dense(width, dtype=self.dtype)(gelu(hidden))
        x = x + (mixed if drop is None else mixed * _factor(drop[1], x))
        return x, None


def _factor(drop: Array, x: Array) -> Array:
    return drop[:, None, None].astype(x.dtype)


def drop_paths(key: Array, batch: int, depth: int, rate: float) -> Array:
    """Stochastic depth (Huang et al. 2016): factors of each branch of each block, `[B, depth, 2]`.

    0 with a probability that grows linearly from 0 in the first block to `rate` in the last, else
    1 / (1 - probability), for each image by itself; float32.
    """
    kept = 1.0 - jnp.linspace(0.0, rate, depth)[:, None]
    return jnp.where(jax.random.bernoulli(key, kept, (batch, depth, 2)), 1.0 / kept, 0.0)


class Stack(nn.Module):
    """`depth` blocks with their parameters stacked on a leading axis, then a layer norm.

    Attributes:
        remat: a name in `REMAT_POLICIES`.
        unroll: how many blocks the compiler sees at once; more runs faster and compiles slower.
        norm: whether there is a layer norm at the end.
        key_bias: see `Attention`.
    """

    depth: int
    heads: int
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    norm: bool = True
    key_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, drop: Array | None = None) -> Array:
        """Tokens `[B, N, D]` to `[B, N, D]`; `drop` `[B, depth, 2]` is from `drop_paths`."""
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
        # one slice [2, B] a block
        drop = None if drop is None else drop.transpose(1, 2, 0)
        x, _ = blocks(self.heads, self.dtype, self.key_bias, name="blocks")(x, drop)
        return layer_norm(self.dtype, name="norm")(x) if self.norm else x
