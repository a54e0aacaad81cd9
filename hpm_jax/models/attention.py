"""Self-attention with a memory-efficient backward pass."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from hpm_jax.errors import ConfigError
from hpm_jax.models.decomposed import Decomposed, with_offsets
from hpm_jax.models.quantization import Product, product_of
from hpm_jax.models.relative import Relative, relative_bias
from hpm_jax.models.tpu_attention import LONGEST, fused_attention

Attend = Callable[[Array, Array, Array], Array]
Implementation = Literal["cudnn", "xla"]  # names of JAX
Rotation = tuple[Array, Array]  # cosines and sines, see `hpm_jax/models/rotary.py`
Norm = tuple[Array, Array, float]  # scale, bias and epsilon
Projection = tuple[Array, Array, Norm | None]  # kernel, bias and norm


@jax.custom_vjp
def attend(query: Array, key: Array, value: Array) -> Array:
    """Computes scaled dot-product attention; arguments and result are `[B, heads, N, head width]`.

    Softmax is in float32 and normalised after the product with the value, which saves N x N
    divisions. The backward pass keeps only the logarithm of each row's sum and recomputes the
    weights from it (Dao et al. 2022, FlashAttention, algorithm 4, in one tile). There may be fewer
    queries than keys.
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


def attend_with_bias(query: Array, key: Array, value: Array, bias: Array) -> Array:
    """Computes attention `[B, heads, N, head width]` with a bias of the scores, `[_, heads, N, M]`.

    The bias learns, so the backward pass is JAX's own: it recomputes scores and weights.
    """
    weights = jax.nn.softmax(_scores(query, key) + bias.astype(jnp.float32), axis=-1)
    out = jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value)
    return checkpoint_name(out, "attended")


HALF = (jnp.bfloat16, jnp.float16)  # what cuDNN's kernel takes


def _wrong_width(head: int) -> bool:
    return bool(head % 8) or head > 128


def attend_by_cudnn(
    query: Array, key: Array, value: Array, implementation: Implementation = "cudnn"
) -> Array:
    """Computes attention by cuDNN's fused kernel, without N x N arrays (NVIDIA, half precision).

    Args:
        implementation: "cudnn", or "xla" for the same computation on any device.

    Raises:
        ConfigError: without such a GPU, in float32, or for heads that the kernel does not take.
    """
    q, k, v = (checkpoint_name(even(x.swapaxes(1, 2)), "heads") for x in (query, key, value))
    out = _of_even(q, k, v, key.shape[2], implementation)
    return out[:, : query.shape[2]].swapaxes(1, 2)


def attend_one_product(
    product: Array, heads: int, implementation: Implementation = "cudnn"
) -> Array:
    """Computes attention by cuDNN's fused kernel from one product for query, key and value.

    Fewer bytes are moved than with three products: each pass over tokens or gradients is one.

    Args:
        product: `[B, N, 3 D]`, heads side by side.
        implementation: "cudnn", or "xla" for the same computation on any device.

    Returns:
        `[B, N, D]` or `[B, N + 1, D]`, whichever is even. The caller cuts the token that was added
        after its own product, where this costs no pass; its value is finite, and nothing reads it.

    Raises:
        ConfigError: see `attend_by_cudnn`.
    """
    tokens, width = product.shape[1], product.shape[2] // 3
    query, key, value = (
        checkpoint_name(x.reshape(*x.shape[:2], heads, -1), "heads")
        for x in jnp.split(even(product), 3, axis=-1)
    )
    out = _of_even(query, key, value, tokens, implementation)
    return out.reshape(len(out), -1, width)


def even(x: Array) -> Array:
    """Appends a token of zeros to `[B, N, ...]` if N is odd: cuDNN differentiates even numbers."""
    return jnp.pad(x, [(0, 0), (0, x.shape[1] % 2)] + [(0, 0)] * (x.ndim - 2))


def _of_even(
    query: Array, key: Array, value: Array, real: int, implementation: Implementation
) -> Array:
    """Attention `[B, N, heads, head width]` of even numbers of tokens, the first `real` keys.

    All queries count, so that nothing is undefined in the output of one that was added.
    """
    head, dtype = query.shape[3], query.dtype
    if implementation == "cudnn" and dtype not in HALF:
        raise _no_cudnn(f"the dtype is {dtype}")
    if implementation == "cudnn" and _wrong_width(head):
        raise _no_cudnn(f"a head is {head} wide: expected a multiple of 8, at most 128")

    def lengths(tokens: int) -> Array | None:
        return jnp.full(len(query), tokens, jnp.int32) if real < key.shape[1] else None

    try:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            query_seq_lengths=lengths(query.shape[1]),
            key_value_seq_lengths=lengths(real),
            implementation=implementation,
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise _no_cudnn(str(error)) from error


def attend_by_pallas(query: Array, key: Array, value: Array) -> Array:
    """Computes attention by our fused kernel for TPUs, for heads before tokens.

    Raises:
        ConfigError: see `attend_side_by_side`.
    """
    heads = query.shape[1]
    q, k, v = (checkpoint_name(join_heads(x), "heads") for x in (query, key, value))
    return split_heads(attend_side_by_side(q, k, v, heads), heads)


def attend_side_by_side(query: Array, key: Array, value: Array, heads: int) -> Array:
    """Computes attention `[B, N, D]` by our fused kernel, see `hpm_jax/models/tpu_attention.py`.

    The compiler cannot partition a kernel: each device of the mesh that `Devices.jit_step` declares
    computes its own images. XLA computes attention where several devices have declared none, as in
    evaluations, or where images do not divide over them.

    Raises:
        ConfigError: on other devices than TPUs, or for more tokens than the kernel takes.
    """
    platform = _target.get() or jax.default_backend()
    if platform != "tpu":
        raise _no_pallas(f"the device is a {platform.upper()}")
    if (longest := max(query.shape[1], key.shape[1])) > LONGEST:
        raise _no_pallas(f"there are {longest} tokens")

    def attend_here(*parts: Array) -> Array:
        return fused_attention(*parts, heads)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and len(query) % mesh.size == 0:
        images = PartitionSpec(mesh.axis_names)
        mapped = jax.shard_map(attend_here, in_specs=images, out_specs=images, check_vma=False)
        out = mapped(query, key, value)
    elif mesh.empty and (_target.get() or jax.device_count() == 1):
        out = attend_here(query, key, value)
    else:
        out = join_heads(attend(*(split_heads(x, heads) for x in (query, key, value))))
    return checkpoint_name(out, "attended")


def split_heads(x: Array, heads: int) -> Array:
    """Maps `[B, N, D]` to `[B, heads, N, D / heads]`."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x: Array) -> Array:
    """Maps `[B, heads, N, D / heads]` to `[B, N, D]`."""
    return x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1)


_target: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Names the platform of devices that are not here: "tpu", "gpu" with cuDNN, or "cpu".

    Only tracing inside the block is affected.
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


@functools.cache
def has_cudnn() -> bool:
    """Whether the default device runs cuDNN's fused attention; compiles a small gradient once."""
    if jax.default_backend() != "gpu":
        return False
    tokens = jax.ShapeDtypeStruct((1, 1, 50, 64), jnp.bfloat16)
    try:
        gradient = jax.grad(lambda x: attend_by_cudnn(x, x, x).astype(jnp.float32).sum())
        jax.jit(gradient).lower(tokens).compile()
    except (ConfigError, RuntimeError, ValueError):  # another GPU, or cuDNN is missing
        return False
    return True


def attend_automatically(query: Array, key: Array, value: Array) -> Array:
    """Computes attention by cuDNN's fused kernel where it runs, and otherwise by XLA."""
    return ATTENTIONS[chosen("auto", query.dtype, query.shape[-1])](query, key, value)


def chosen(name: str, dtype: Any, head: int) -> str:
    """Returns a name in `ATTENTIONS`: "cudnn" or "xla" for "auto", by device, dtype and width."""
    if name != "auto":
        return name
    fits = dtype in HALF and not _wrong_width(head)
    platform = _target.get()
    return "cudnn" if fits and (platform == "gpu" if platform else has_cudnn()) else "xla"


def _no_cudnn(reason: str) -> ConfigError:
    return ConfigError(
        "config.model.attention = 'cudnn' needs an NVIDIA GPU of 2020 or newer and "
        f"config.model.dtype = 'bfloat16' ({reason}): or --config.model.attention=xla."
    )


def _no_pallas(reason: str) -> ConfigError:
    return ConfigError(
        f"config.model.attention = 'pallas' needs a TPU and at most {LONGEST} tokens ({reason}): "
        "use --config.model.attention=xla."
    )


ATTENTIONS: dict[str, Attend] = {
    "xla": attend,
    "cudnn": attend_by_cudnn,
    "pallas": attend_by_pallas,
    "auto": attend_automatically,
}


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

    The products read and write `[B, heads, N, head width]` directly, so nothing is transposed.

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
        query, key, value = (to_heads(x, *part) for part in self.parameters(x.shape[-1])[0])
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
        if fused in ("cudnn", "pallas"):
            kernels = [one.reshape(width, width) for one, _, _ in projections]
            biases = [one.reshape(width) for _, one, _ in projections]
            out = self._side_by_side(x, read, kernels, biases, fused, product)
            out = product("bnw,wd->bnd", out, kernel.reshape(width, width))
            return out[:, :read] + bias

        def project(part: int, tokens: Array) -> Array:
            heads = to_heads(tokens, *projections[part], product=product)
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
        kernels: list[Array],
        biases: list[Array],
        fused: str,
        product: Product,
    ) -> Array:
        """Attends with heads side by side, as fused kernels read them: nothing is transposed.

        Args:
            kernels: `[D, D]` of query, key and value; biases: `[D]`.
            fused: "cudnn" or "pallas".
            product: of tokens and kernels.

        Returns:
            `[B, read, D]`; cuDNN's may have one more, see `attend_one_product`.
        """
        if fused == "cudnn" and read == x.shape[1]:
            one = product("bnw,wd->bnd", x, jnp.concatenate(kernels, axis=1))
            return attend_one_product(one + jnp.concatenate(biases), self.heads)
        query, key, value = (
            product("bnw,wd->bnd", part, kernel) + bias
            for part, kernel, bias in zip((x[:, -read:], x, x), kernels, biases, strict=True)
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
        (query, key, _), _, _, relative = self.parameters(x.shape[-1])
        keys = to_heads(x, *key)
        if rotation is None and not self.qk_norm:
            # queries are linear in their tokens: the mean query is the query of the mean token
            summary = to_heads(x[:, :1] if first else x.mean(axis=1, keepdims=True), *query)
        else:
            queries = to_heads(x, *query)
            if rotation is not None:
                queries, keys = rotate(queries, rotation), rotate(keys, rotation)
            summary = queries[:, :, :1] if first else queries.mean(axis=2, keepdims=True)
        scores = _scores(summary, keys)
        if relative is not None:
            own = relative[:, :, :1] if first else relative.mean(axis=2, keepdims=True)
            scores = scores + own.astype(scores.dtype)
        return jax.nn.softmax(scores, axis=-1)[:, :, 0]

    @nn.compact
    def parameters(self, width: int) -> tuple[list[Projection], Array, Array, Any]:
        """Returns the parameters for tokens of `width` D, in the dtype of the products.

        Returns:
            Kernel `[D, heads, D / heads]`, bias `[heads, 1, D / heads]` and norm of query, key and
            value; kernel `[heads, D / heads, D]` and bias `[D]` of the projection; and the bias of
            the scores by relative positions, `[1, heads, N, N]`, or the tables of decomposed ones,
            or None.
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
        norms = (
            HeadNorm(self.norm_eps, name=name)(head) if self.qk_norm and name else None
            for name in ("query_norm", "key_norm", "")
        )
        projections = [(kernels[:, part], biases[part], norm) for part, norm in enumerate(norms)]
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
