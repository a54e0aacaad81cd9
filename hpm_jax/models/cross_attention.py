"""Blocks whose tokens attend to the output of another stack, and not to each other."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hpm_jax.models.attention import Attention, Linear, to_heads
from hpm_jax.models.layers import feed_forward, layer_norm
from hpm_jax.models.quantization import product_of
from hpm_jax.models.scaled_dot_product import ATTENTIONS
from hpm_jax.models.stack import REMAT_POLICIES, Gather, as_they_are


class CrossAttend(nn.Module):
    """Attention with queries from the tokens, keys and values from a memory of another width.

    Attributes:
        key_bias: whether keys have a bias; without it the parameter is that of the values.
        attention: a name in `ATTENTIONS`.
        quantization: of the products with kernels, a name in `QUANTIZATIONS`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True
    attention: str = "xla"
    quantization: str = ""

    @nn.compact
    def __call__(self, x: Array, memory: Array) -> Array:
        """Maps tokens `[B, Q, W]` and a memory `[B, N, D]` to `[B, Q, W]`."""
        width, given = x.shape[-1], memory.shape[-1]
        if width % self.heads:
            raise ValueError(f"width {width} does not split into {self.heads} heads")
        head = width // self.heads
        product = product_of(self.quantization)

        def project(tokens: Array, kernel: Array, bias: Array) -> Array:
            kernel = kernel.astype(self.dtype).reshape(-1, self.heads, head)
            bias = bias.astype(self.dtype).reshape(self.heads, 1, head)
            return checkpoint_name(to_heads(tokens, kernel, bias, product=product), "heads")

        kernel, bias = Linear(width, name="query")(width)
        assert bias is not None  # requested above
        query = project(x, kernel, bias)
        kernel, bias = Linear(2 * width, self.key_bias, name="key_value")(given)
        if bias is None:
            of_value = self.param("value_bias", nn.initializers.zeros, (width,))
            bias = jnp.concatenate([jnp.zeros_like(of_value), of_value])
        key = project(memory, kernel[:, :width], bias[:width])
        value = project(memory, kernel[:, width:], bias[width:])
        out = ATTENTIONS[self.attention](query, key, value)
        kernel, bias = Linear(width, name="projection")(width)
        assert bias is not None  # requested above
        kernel = kernel.astype(self.dtype).reshape(self.heads, head, width)
        return product("bhnd,hdw->bnw", out, kernel) + bias.astype(self.dtype)


class Mix(nn.Module):
    """The normalised weighted sum of several feature maps (CrossMAE, inter-block attention)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        """Maps `[k, B, N, D]` to `[B, N, D]`; the weights start with variance 1 / k."""
        count = len(maps)
        kernel = self.param("kernel", nn.initializers.normal(count**-0.5), (count,))
        mixed = jnp.einsum("k,kbnd->bnd", kernel.astype(self.dtype), maps)
        return layer_norm(self.dtype, name="norm")(mixed)


class CrossBlock(nn.Module):
    """The pre-norm block: `x += attention(norm(x), memory); x += mlp(norm(x))`.

    Attributes:
        joined: whether the tokens are part of the memory, as wide as they are, after a norm of
            both, so that they attend to each other too (CAE).
        among: whether self-attention among the tokens comes first, and the memory has a norm
            (DiffMAE's cross-self decoder).
        quantization: see `CrossAttend`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True
    attention: str = "xla"
    joined: bool = False
    among: bool = False
    quantization: str = ""

    @nn.compact
    def __call__(self, x: Array, memory: Array) -> Array:
        """Maps tokens `[B, Q, W]` to the same shape.

        Args:
            memory: `[B, N, D]`; or several, `[k, B, N, D]`, which are mixed.
        """
        options = self.heads, self.dtype, self.key_bias, self.attention
        if memory.ndim == 4:
            memory = Mix(self.dtype, name="mix")(memory)
        if self.joined:
            memory = jnp.concatenate([memory, x], axis=1)
        if self.joined or self.among:
            memory = layer_norm(self.dtype, name="memory_norm")(memory)
        if self.among:
            itself = Attention(*options, quantization=self.quantization, name="self_attention")
            x = x + itself(layer_norm(self.dtype, name="self_norm")(x), x.shape[1])
        attend = CrossAttend(*options, self.quantization, name="attention")
        x = x + attend(layer_norm(self.dtype)(x), memory)
        x = checkpoint_name(x, "middle")
        return x + feed_forward(x, self.dtype, quantization=self.quantization)


class CrossStack(nn.Module):
    """`depth` such blocks with their parameters stacked on a leading axis, then a layer norm.

    The attributes are those of `Stack` and of `CrossBlock`.
    """

    depth: int
    heads: int
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    key_bias: bool = True
    attention: str = "xla"
    gather: Gather = as_they_are
    joined: bool = False
    among: bool = False
    quantization: str = ""

    @nn.compact
    def __call__(self, x: Array, memory: Array, each: Array | None = None) -> Array:
        """Maps tokens `[B, Q, W]` to the same shape; `memory` is that of `CrossBlock`.

        With `each`, `[depth]`, block i reads `memory[each[i]]` of several, `[k, B, N, D]`.
        """
        block = CrossBlock(
            *(self.heads, self.dtype, self.key_bias, self.attention, self.joined, self.among),
            quantization=self.quantization,
            parent=None,
        )
        first = x[:1], memory[0, :1] if each is not None else memory[..., :1, :, :]
        start = jax.vmap(lambda key: block.init(key, *first)["params"])
        params = self.param("blocks", lambda key: start(jax.random.split(key, self.depth)))

        def cast(param: Array) -> Array:
            return param.astype(self.dtype) if param.ndim > 1 else param

        def step(x: Array, one: Any) -> Any:
            params, number = one
            prepared = self.gather(jax.tree.map(cast, params))
            read = memory if number is None else memory[number]
            return block.apply({"params": prepared}, x, read), None

        kept = REMAT_POLICIES[self.remat]
        step = jax.checkpoint(step, prevent_cse=False, policy=kept)
        x, _ = jax.lax.scan(step, x, (params, each), unroll=self.unroll)
        return layer_norm(self.dtype, name="norm")(x)
