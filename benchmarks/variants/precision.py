"""Lower precision: parameters that are cast once, and linear layers in 8 bits for the teacher."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.variants.restated import Params, dense
from hpm_jax.models.decoders import Sizes


def cast_once(params: Params) -> Params:
    """Kernels and biases of linear layers in bfloat16, before any layer reads them."""

    def cast(path, leaf):
        keys = [part.key for part in path]
        linear = keys[-1] in ("kernel", "bias") and "norm" not in keys[-2].lower()
        return leaf.astype(jnp.bfloat16) if linear else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def int8_dense(params: Params, x: Array) -> Array:
    """A linear layer in int8: one scale a column of the kernel, one a token, both from the largest.

    Symmetric, rounded to nearest; the product is summed in int32.
    """
    kernel, kernel_scale = _int8(params["kernel"].astype(jnp.float32), axis=0)
    tokens, token_scale = _int8(x.astype(jnp.float32), axis=-1)
    contracted = (((x.ndim - 1,), (0,)), ((), ()))
    total = jax.lax.dot_general(tokens, kernel, contracted, preferred_element_type=jnp.int32)
    out = total.astype(jnp.float32) * token_scale * kernel_scale + params["bias"]
    return out.astype(x.dtype)


def _int8(x: Array, axis: int) -> tuple[Array, Array]:
    scale = jnp.maximum(jnp.abs(x).max(axis=axis, keepdims=True), 1e-12) / 127.0
    return jnp.round(x / scale).astype(jnp.int8), scale


def float8_dense(params: Params, x: Array) -> Array:
    """A linear layer whose operands are rounded to float8 (e4m3), scaled as in `int8_dense`.

    The product itself is in the dtype of `x`: an emulation, for its numbers, not for its time.
    """
    kernel = _float8(params["kernel"].astype(jnp.float32), axis=0).astype(x.dtype)
    tokens = _float8(x.astype(jnp.float32), axis=-1).astype(x.dtype)
    return dense({"kernel": kernel, "bias": params["bias"]}, tokens)


def _float8(x: Array, axis: int) -> Array:
    largest = float(jnp.finfo(jnp.float8_e4m3fn).max)
    scale = jnp.maximum(jnp.abs(x).max(axis=axis, keepdims=True), 1e-12) / largest
    return (x / scale).astype(jnp.float8_e4m3fn).astype(jnp.float32) * scale


class WithTeacher(NamedTuple):
    """A model whose teacher's pass is another model's."""

    student: Any
    teacher: Any

    @property
    def grid(self) -> tuple[int, int, int]:
        """The grid of patches."""
        return self.student.grid

    @property
    def decoder_sizes(self) -> Sizes:
        """The facts that decoders are built from."""
        return self.student.decoder_sizes

    def apply(self, variables: Params, *arguments: Any, **keywords: Any) -> Any:
        """As `MaskedAutoencoder.apply`."""
        model = self.teacher if keywords.get("method") in ("read", "predict_loss") else self.student
        return model.apply(variables, *arguments, **keywords)


def agreement(reference: Array, other: Array, count: int) -> Array:
    """The share of the `count` patches with the highest predicted loss that both agree on.

    Args:
        reference, other: predicted losses `[B, L]`.
    """
    hardest = [jnp.argsort(x, axis=1)[:, -count:] for x in (reference, other)]
    return jnp.mean((hardest[0][:, :, None] == hardest[1][:, None, :]).any(axis=2))
