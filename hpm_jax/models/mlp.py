"""The feed-forward layers of a block: their activations, gates and widths."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def gelu(x: Array) -> Array:
    """Computes the exact GELU by erf; `jax.nn.gelu` uses erfc, which is slower on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x: Array) -> Array:
    """Computes the tanh approximation of GELU (Hendrycks and Gimpel 2016; SigLIP)."""
    return 0.5 * x * (1.0 + jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def quick_gelu(x: Array) -> Array:
    """Computes the sigmoid approximation of GELU, `x sigmoid(1.702 x)` (CLIP)."""
    return x * jax.nn.sigmoid(1.702 * x)


def swiglu(x: Array) -> Array:
    """Computes `silu(a) b` of the halves `[a, b]` of `x` (Shazeer 2020; DINOv2's giant)."""
    gate, value = jnp.split(x, 2, axis=-1)
    return jax.nn.silu(gate) * value


MLPS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}
GATED = ("swiglu",)  # these halve the width of their input


def hidden_width(mlp: str, width: int, given: int = 0) -> int:
    """Returns the width between the two products: `given`, or the default for a name in `MLPS`.

    The default is `4 width`; for a gated layer, which has three matrices, it is two thirds of that,
    rounded up to a multiple of 8 (DINOv2, layers/swiglu_ffn.py).
    """
    if given:
        return given
    return (8 * width // 3 + 7) // 8 * 8 if mlp in GATED else 4 * width


def inner_width(mlp: str, width: int, given: int = 0) -> int:
    """Returns the number of outputs of the first product: twice the hidden width where gated."""
    return hidden_width(mlp, width, given) * (2 if mlp in GATED else 1)


def mlp_weights(mlp: str, width: int, given: int = 0) -> int:
    """Returns the number of weights in the matrices of a feed-forward layer."""
    return width * (inner_width(mlp, width, given) + hidden_width(mlp, width, given))
