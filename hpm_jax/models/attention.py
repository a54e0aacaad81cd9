"""Self-attention: three projections, and a weighted mean whose backward pass keeps little."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

Attend = Callable[[Array, Array, Array], Array]


@jax.custom_vjp
def attend(query: Array, key: Array, value: Array) -> Array:
    """Scaled dot-product attention, `[B, heads, N, head width]` for every argument and the result.

    Softmax is in float32 and divided after the product with the value: N x N divisions fewer, the
    same numbers. For the backward pass only the logarithm of each row's sum is kept, and the
    weights are computed again from it (Dao et al. 2022, FlashAttention, algorithm 4, in one tile).
    There may be fewer queries than keys.
    """
    return _forward(query, key, value)[0]


def _scores(query: Array, key: Array) -> Array:
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    return scores.astype(jnp.float32)


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    scores = _scores(query, key)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    out = jnp.einsum("bhnm,bhmd->bhnd", weights, value, preferred_element_type=jnp.float32)
    out = checkpoint_name((out / total).astype(value.dtype), "attended")
    return out, (query, key, value, out, checkpoint_name(largest + jnp.log(total), "rows"))


def _backward(kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, out, row = kept
    weights = jnp.exp(_scores(query, key) - row)
    inner = jnp.einsum("bhnd,bhmd->bhnm", gradient, value).astype(jnp.float32)
    mean = jnp.sum(gradient * out, axis=-1, keepdims=True, dtype=jnp.float32)
    scores = (weights * (inner - mean)).astype(value.dtype)
    scale = query.shape[-1] ** -0.5
    return (
        jnp.einsum("bhnm,bhmd->bhnd", scores, key) * scale,
        jnp.einsum("bhnm,bhnd->bhmd", scores, query) * scale,
        jnp.einsum("bhnm,bhnd->bhmd", weights.astype(value.dtype), gradient),
    )


attend.defvjp(_forward, _backward)


def attend_by_cudnn(query: Array, key: Array, value: Array) -> Array:
    """The same by cuDNN's fused kernel, which writes no N x N array: NVIDIA GPUs, half precision.

    Raises:
        ValueError: where there is no such GPU, or in float32.
    """
    tokens_first = (checkpoint_name(x.swapaxes(1, 2), "heads") for x in (query, key, value))
    try:
        out = jax.nn.dot_product_attention(*tokens_first, implementation="cudnn")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            "config.model.attention = 'cudnn' needs an NVIDIA GPU of 2020 or newer and "
            f"config.model.dtype = 'bfloat16' ({error}): or --config.model.attention=xla."
        ) from error
    return checkpoint_name(out.swapaxes(1, 2), "attended")


ATTENTIONS: dict[str, Attend] = {"xla": attend, "cudnn": attend_by_cudnn}


class Linear(nn.Module):
    """The parameters of a linear layer, for a caller who multiplies by parts of them."""

    outputs: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array | None]:
        """Kernel `[inputs, outputs]` and bias `[outputs]` or None, float32."""
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (inputs, self.outputs))
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.outputs,))


class Attention(nn.Module):
    """Self-attention with one fused kernel for query, key and value (timm's layout).

    The products write and read `[B, heads, N, head width]` themselves, so nothing is transposed.

    Attributes:
        key_bias: whether keys have a bias too; without it the parameter is `[2, D]`.
        attention: a name in `ATTENTIONS`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True
    attention: str = "xla"

    def __call__(self, x: Array, read: int | None = None) -> Array:
        """Tokens `[B, N, D]` to what the last `read` of them, or all, attend to, `[B, read, D]`."""
        width, read = x.shape[-1], read or x.shape[1]
        projections, kernel, bias = self.parameters(width)

        def project(part: int, tokens: Array) -> Array:
            return checkpoint_name(_heads(tokens, *projections[part]), "heads")

        out = ATTENTIONS[self.attention](project(0, x[:, -read:]), project(1, x), project(2, x))
        return jnp.einsum("bhnd,hdw->bnw", out, kernel) + bias

    def summary_weights(self, x: Array, first: bool = True) -> Array:
        """Where the summary of an image looks: softmax weights `[B, N]` float32, the heads' mean.

        The query is that of the first token, or the mean of all queries. Only this query and the
        keys are computed.
        """
        (query, key, _), _, _ = self.parameters(x.shape[-1])
        # a query is linear in its token, so the mean of the queries is that of the mean token
        summary = x[:, :1] if first else x.mean(axis=1, keepdims=True)
        scores = _scores(_heads(summary, *query), _heads(x, *key))
        return jax.nn.softmax(scores, axis=-1).mean(axis=1)[:, 0]

    @nn.compact
    def parameters(self, width: int) -> tuple[list[tuple[Array, Array]], Array, Array]:
        """What tokens of `width` D are multiplied by, in the dtype of the products.

        Returns:
            Kernel `[D, heads, D / heads]` and bias `[heads, 1, D / heads]` of query, key and
            value; and of the projection, `[heads, D / heads, D]` and `[D]`.
        """
        if width % self.heads:
            raise ValueError(f"width {width} does not split into {self.heads} heads")
        head = width // self.heads
        kernel, bias = Linear(3 * width, self.key_bias, name="qkv")(width)
        if bias is None:
            query, value = self.param("query_value_bias", nn.initializers.zeros, (2, width))
            bias = jnp.stack([query, jnp.zeros_like(query), value])
        kernels = kernel.astype(self.dtype).reshape(width, 3, self.heads, head)
        biases = bias.astype(self.dtype).reshape(3, self.heads, 1, head)
        projections = [(kernels[:, part], biases[part]) for part in range(3)]
        kernel, bias = Linear(width, name="projection")(width)
        assert bias is not None  # as asked for
        kernel = kernel.astype(self.dtype).reshape(self.heads, head, width)
        return projections, kernel, bias.astype(self.dtype)


def _heads(tokens: Array, kernel: Array, bias: Array) -> Array:
    """`[B, N, D]` by `[D, heads, D / heads]`: `[B, heads, N, D / heads]`."""
    return jnp.einsum("bnw,whd->bhnd", tokens, kernel) + bias
