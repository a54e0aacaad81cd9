"""Scaled dot-product attention: by XLA with a memory-efficient backward pass, cuDNN, or Pallas."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from hpm_jax.errors import ConfigError
from hpm_jax.models.compiled_for import described, platform
from hpm_jax.models.tpu_attention import LONGEST, fused_attention

Attend = Callable[[Array, Array, Array], Array]
Implementation = Literal["cudnn", "xla"]  # names of JAX


@jax.custom_vjp
def attend(query: Array, key: Array, value: Array) -> Array:
    """Computes scaled dot-product attention; arguments and result are `[B, heads, N, head width]`.

    Softmax is in float32 and normalised after the product with the value, which saves N x N
    divisions. The backward pass keeps only the logarithm of each row's sum and recomputes the
    weights from it (Dao et al. 2022, FlashAttention, algorithm 4, in one tile). There may be fewer
    queries than keys.
    """
    return _forward(query, key, value)[0]


def scaled_scores(query: Array, key: Array) -> Array:
    """Returns the products of queries and keys over the root of a head's width, float32."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", query * query.shape[-1] ** -0.5, key)
    return scores.astype(jnp.float32)


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    scores = scaled_scores(query, key)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    out = jnp.einsum("bhnm,bhmd->bhnd", weights, value, preferred_element_type=jnp.float32)
    out = checkpoint_name((out / total).astype(value.dtype), "attended")
    return out, (query, key, value, out, checkpoint_name(largest + jnp.log(total), "rows"))


def _backward(kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, out, row = kept
    weights = jnp.exp(scaled_scores(query, key) - row)
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
    weights = jax.nn.softmax(scaled_scores(query, key) + bias.astype(jnp.float32), axis=-1)
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
    if platform() != "tpu":
        raise _no_pallas(f"the device is a {platform().upper()}")
    if (longest := max(query.shape[1], key.shape[1])) > LONGEST:
        raise _no_pallas(f"there are {longest} tokens")

    def attend_here(*parts: Array) -> Array:
        return fused_attention(*parts, heads)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and len(query) % mesh.size == 0:
        images = PartitionSpec(mesh.axis_names)
        mapped = jax.shard_map(attend_here, in_specs=images, out_specs=images, check_vma=False)
        out = mapped(query, key, value)
    elif mesh.empty and (described().platform or jax.device_count() == 1):
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
    named = described().platform
    return "cudnn" if fits and (named == "gpu" if named else has_cudnn()) else "xla"


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
