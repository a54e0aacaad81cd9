"""Self-attention with one fused kernel for query, key and value."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hpm_jax.models.compiled_for import platform
from hpm_jax.models.decomposed import Decomposed, with_offsets
from hpm_jax.models.products import EQUATION
from hpm_jax.models.quantization import Product, product_of
from hpm_jax.models.relative import Relative, relative_bias
from hpm_jax.models.scaled_dot_product import (
    ATTENTIONS,
    attend,
    attend_by_cudnn,
    attend_one_product,
    attend_side_by_side,
    attend_with_bias,
    chosen,
    join_heads,
    scaled_scores,
    split_heads,
)

Rotation = tuple[Array, Array]  # cosines and sines, see `hpm_jax/models/rotary.py`
Norm = tuple[Array, Array, float]  # scale, bias and epsilon
Projection = tuple[Array, Array, Norm | None]  # kernel, bias and norm


class Projections(NamedTuple):
    """The parameters of query, key and value, in one array each."""

    kernel: Array  # [D, 3, heads, D / heads]
    bias: Array  # [3, heads, 1, D / heads]
    norms: tuple[Norm | None, ...]

    def parts(self) -> list[Projection]:
        """Returns kernel `[D, heads, D / heads]`, bias `[heads, 1, D / heads]` and norm of each."""
        return [(self.kernel[:, i], self.bias[i], norm) for i, norm in enumerate(self.norms)]


class Linear(nn.Module):
    """The parameters of a linear layer, for callers that multiply by parts of them."""

    outputs: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array | None]:
        """Returns kernel `[inputs, outputs]` and bias `[outputs]` or None, float32."""
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (inputs, self.outputs))
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.outputs,))


class HeadNorm(nn.Module):
    """The parameters of a layer norm of each head, which are those of all heads."""

    eps: float

    @nn.compact
    def __call__(self, width: int) -> Norm:
        """Returns scale and bias `[width]`, float32, and epsilon."""
        scale = self.param("scale", nn.initializers.ones, (width,))
        return scale, self.param("bias", nn.initializers.zeros, (width,)), self.eps


class Attention(nn.Module):
    """Self-attention with one fused kernel for query, key and value (timm's layout).

    The products read and write `[B, heads, N, head width]` directly, so nothing is transposed; not
    so on CPUs and with fused kernels, see `_side_by_side`.

    Attributes:
        key_bias: whether keys have a bias; without it the parameter is `[2, D]`.
        attention: a name in `ATTENTIONS`.
        relative: the tokens, if their relative positions are learned: as a bias of each offset, or
            decomposed.
        qk_norm: whether queries and keys of each head are normalised, before they are rotated
            (Dehghani et al. 2023, Scaling Vision Transformers to 22 Billion Parameters).
        norm_eps: epsilon of these norms.
        quantization: of the products with kernels, a name in `QUANTIZATIONS`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True
    attention: str = "xla"
    relative: Relative | Decomposed | None = None
    qk_norm: bool = False
    norm_eps: float = 1e-6
    quantization: str = ""

    def heads_of(self, x: Array, rotation: Rotation | None = None) -> tuple[Array, Array, Array]:
        """Returns query, key and value of tokens `[B, N, D]`, each `[B, heads, N, D / heads]`."""
        query, key, value = (to_heads(x, *part) for part in self.parameters(x.shape[-1])[0].parts())
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value

    def __call__(
        self, x: Array, read: int | None = None, rotation: Rotation | None = None
    ) -> Array:
        """Returns the attention output of the last `read` tokens, or all: `[B, read, D]`.

        `rotation` turns queries and keys by the positions of their tokens.
        """
        width, read = x.shape[-1], read or x.shape[1]
        projections, kernel, bias, relative = self.parameters(width)
        product = product_of(self.quantization)
        plain = rotation is None and relative is None and not self.qk_norm
        fused = chosen(self.attention, x.dtype, width // self.heads) if plain else ""
        if fused in ("cudnn", "pallas") or (fused == "xla" and platform() == "cpu"):
            out = self._side_by_side(x, read, projections, fused, product)
            out = product(EQUATION, out, kernel.reshape(width, width))
            return out[:, :read] + bias
        parts = projections.parts()

        def project(part: int, tokens: Array) -> Array:
            heads = to_heads(tokens, *parts[part], product=product)
            if rotation is not None and part < 2:  # query and key
                heads = rotate(heads, rotation)
            return checkpoint_name(heads, "heads")

        projected = project(0, x[:, -read:]), project(1, x), project(2, x)
        if relative is None:
            out = ATTENTIONS[self.attention](*projected)
        elif isinstance(self.relative, Decomposed):
            query, key, value = projected
            out = attend(*with_offsets(query, key, relative, self.relative), value)
        else:
            out = attend_with_bias(*projected, relative[:, :, -read:])
        return product("bhnd,hdw->bnw", out, kernel) + bias

    def _side_by_side(
        self,
        x: Array,
        read: int,
        projections: Projections,
        fused: str,
        product: Product,
    ) -> Array:
        """Attends with heads side by side in the products of tokens and kernels.

        Fused kernels read them so: nothing is transposed. On a CPU one product whose rows are
        tokens and a copy to heads are faster than products that write heads.

        Args:
            fused: "cudnn", "pallas", or "xla" for CPUs.
            product: of tokens and kernels.

        Returns:
            `[B, read, D]`; cuDNN's may have one more, see `attend_one_product`.
        """
        width = x.shape[-1]
        if fused == "xla" or (fused == "cudnn" and read == x.shape[1]):
            one = product(EQUATION, x, projections.kernel.reshape(width, 3 * width))
            one = one + projections.bias.reshape(3 * width)
            if fused == "cudnn":
                return attend_one_product(one, self.heads)
            parts = (split_heads(part, self.heads) for part in jnp.split(one, 3, axis=-1))
            query, key, value = (checkpoint_name(part, "heads") for part in parts)
            return join_heads(attend(query[:, :, -read:], key, value))
        query, key, value = (
            product(EQUATION, part, kernel.reshape(width, width)) + bias.reshape(width)
            for part, (kernel, bias, _) in zip(
                (x[:, -read:], x, x), projections.parts(), strict=True
            )
        )
        if fused == "pallas":
            query, key, value = (checkpoint_name(part, "heads") for part in (query, key, value))
            return attend_side_by_side(query, key, value, self.heads)
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))
        return join_heads(attend_by_cudnn(query, key, value))

    def summary_weights(
        self, x: Array, first: bool = True, rotation: Rotation | None = None
    ) -> Array:
        """Returns the attention of one query to all tokens: weights `[B, heads, N]` float32.

        The query is that of the first token, or the mean of all queries. Only this query and the
        keys are computed.
        """
        projections, _, _, relative = self.parameters(x.shape[-1])
        query, key, _ = projections.parts()
        keys = to_heads(x, *key)
        if rotation is None and not self.qk_norm:
            # queries are linear in their tokens: the mean query is the query of the mean token
            summary = to_heads(x[:, :1] if first else x.mean(axis=1, keepdims=True), *query)
        else:
            queries = to_heads(x, *query)
            if rotation is not None:
                queries, keys = rotate(queries, rotation), rotate(keys, rotation)
            summary = queries[:, :, :1] if first else queries.mean(axis=2, keepdims=True)
        scores = scaled_scores(summary, keys)
        if relative is not None:
            own = relative[:, :, :1] if first else relative.mean(axis=2, keepdims=True)
            scores = scores + own.astype(scores.dtype)
        return jax.nn.softmax(scores, axis=-1)[:, :, 0]

    @nn.compact
    def parameters(self, width: int) -> tuple[Projections, Array, Array, Any]:
        """Returns the parameters for tokens of `width` D, in the dtype of the products.

        Returns:
            Those of query, key and value; kernel `[heads, D / heads, D]` and bias `[D]` of the
            projection; and the bias of the scores by relative positions, `[1, heads, N, N]`, or the
            tables of decomposed ones, or None.
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
        norms = tuple(
            HeadNorm(self.norm_eps, name=name)(head) if self.qk_norm and name else None
            for name in ("query_norm", "key_norm", "")
        )
        projections = Projections(kernels, biases, norms)
        kernel, bias = Linear(width, name="projection")(width)
        assert bias is not None  # requested above
        kernel = kernel.astype(self.dtype).reshape(self.heads, head, width)
        relative: Any = None
        if isinstance(self.relative, Decomposed):
            names = ("row_offsets", "column_offsets")
            shapes = zip(names, self.relative.shapes(head), strict=True)
            relative = tuple(self.param(name, nn.initializers.zeros, of) for name, of in shapes)
        elif self.relative is not None:
            shape = (self.relative.entries, self.heads)
            table = self.param("relative_positions", nn.initializers.zeros, shape)
            relative = relative_bias(table, self.relative)
        return projections, kernel, bias.astype(self.dtype), relative


def to_heads(
    tokens: Array,
    kernel: Array,
    bias: Array,
    norm: Norm | None = None,
    product: Product = jnp.einsum,
) -> Array:
    """Multiplies `[B, N, D]` by `[D, heads, D / heads]`: `[B, heads, N, D / heads]`, normalised."""
    heads = product("bnw,whd->bhnd", tokens, kernel) + bias
    if norm is None:
        return heads
    scale, shift, eps = norm
    x = heads.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps) * scale + shift).astype(heads.dtype)


def rotate(x: Array, rotation: Rotation) -> Array:
    """Rotates `[B, heads, N, d]`: place j of a head forms a plane with place j + d / 2.

    Args:
        rotation: cosines and sines `[1 or B, 1, M, d / 2]` float32, M >= N; the last N are used.
    """
    cos, sin = (part[:, :, -x.shape[2] :] for part in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
