"""Products of tokens and kernels in 8 bits, quantised on the fly, for passes without gradient."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.models.compiled_for import described
from hpm_jax.models.products import EQUATION, product

Product = Callable[[str, Array, Array], Array]  # (einsum equation, tokens, kernel)


class Format(NamedTuple):
    """An 8-bit format, and that in which its products are summed."""

    dtype: Any
    total: Any


FORMATS = {
    "int8": Format(jnp.int8, jnp.int32),
    "float8": Format(jnp.float8_e4m3fn, jnp.float32),
}
QUANTIZATIONS = ("", *FORMATS)
FLOAT8_CAPABILITY = 8, 9  # of NVIDIA GPUs, from which they multiply e4m3


def quantize(x: Array, axes: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """Returns `x` in 8 bits and its scale; their product is `x`, rounded.

    Symmetric, without a zero point: the largest magnitude along `axes` becomes the largest number
    of the format, 127 or 448 (Jacob et al. 2018, section 2.1; Micikevicius et al. 2022, FP8).

    Args:
        x: any float array.
        axes: the contracted axes, which share a scale.
        dtype: int8 or float8_e4m3fn.

    Returns:
        An array of the shape of `x`, and float32 scales with 1 in place of `axes`.
    """
    whole = jnp.issubdtype(dtype, jnp.integer)
    limit = float((jnp.iinfo if whole else jnp.finfo)(dtype).max)
    x = x.astype(jnp.float32)
    largest = jnp.maximum(jnp.abs(x).max(axis=axes, keepdims=True), 1e-12)
    scaled = x * (limit / largest)  # a division for each scale, not for each value
    return (jnp.round(scaled) if whole else scaled).astype(dtype), largest / limit


def quantized_product(equation: str, tokens: Array, kernel: Array, name: str) -> Array:
    """Computes `einsum(equation, tokens, kernel)` in 8 bits: one scale a token, one an output.

    Args:
        equation: of two operands that share only contracted letters.
        tokens, kernel: in the dtype of the model.
        name: of a format in `FORMATS`.

    Returns:
        The product in the dtype of `tokens`.

    Raises:
        ConfigError: for float8 on a device that would emulate it.
    """
    if name == "float8":
        _check_float8()
    form = FORMATS[name]
    inputs, output = equation.split("->")
    letters = inputs.split(",")
    values, scales = [], []
    for x, own in zip((tokens, kernel), letters, strict=True):
        contracted = tuple(axis for axis, letter in enumerate(own) if letter not in output)
        value, scale = quantize(x, contracted, form.dtype)
        values.append(value)
        scales.append(_aligned(scale, own, output))
    total = jnp.einsum(equation, *values, preferred_element_type=form.total)
    total = total.astype(tokens.dtype)  # by the product itself: half the bytes in bfloat16
    return (total.astype(jnp.float32) * scales[0] * scales[1]).astype(tokens.dtype)


def _aligned(scale: Array, own: str, output: str) -> Array:
    """Orders the axes of a scale as in the output of an equation, with 1 where it has none."""
    kept = [letter for letter in output if letter in own]
    order = [own.index(letter) for letter in kept]
    contracted = [axis for axis in range(len(own)) if axis not in order]
    scale = scale.transpose(*order, *contracted).reshape([scale.shape[axis] for axis in order])
    return jnp.expand_dims(scale, [i for i, letter in enumerate(output) if letter not in own])


def product_of(quantization: str) -> Product:
    """Returns the product of tokens and kernels for a name in `QUANTIZATIONS`; "" is exact."""
    if not quantization:
        return product
    return functools.partial(quantized_product, name=quantization)


def dense_options(quantization: str) -> dict[str, Any]:
    """Returns the arguments of `nn.Dense`, on tokens `[B, N, D]`, for such a name."""
    if not quantization:
        return {}
    quantized = product_of(quantization)
    return {"dot_general": lambda tokens, kernel, *_, **__: quantized(EQUATION, tokens, kernel)}


def has_float8(device: Any) -> bool:
    """Whether a device multiplies float8: NVIDIA GPUs from compute capability 8.9."""
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    return capability is not None and tuple(map(int, capability.groups())) >= FLOAT8_CAPABILITY


def _check_float8() -> None:
    device, known = jax.devices()[0], described().float8
    if not (has_float8(device) if known is None else known):
        where = device.device_kind if known is None else "the planned devices"
        raise ConfigError(
            "dtype = 'float8' in config.teacher needs a GPU that multiplies float8 (NVIDIA, of "
            "compute capability 8.9 or newer, such as H100), and would be emulated on "
            f"{where}: dtype = 'int8' or 'bfloat16'"
        )
