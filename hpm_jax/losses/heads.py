"""Small perceptrons that terms of the loss train: trees of parameters and two functions."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.models.mlp import gelu
from hpm_jax.tokens import AnyArray


def init_perceptron(key: Array, widths: tuple[int, ...]) -> dict[str, Any]:
    """Returns linear layers from each width to the next: Xavier-uniform kernels, zero biases."""
    init = jax.nn.initializers.xavier_uniform()
    return {
        f"layer_{number}": {
            "kernel": init(jax.random.fold_in(key, number), pair, jnp.float32),
            "bias": jnp.zeros(pair[1], jnp.float32),
        }
        for number, pair in enumerate(itertools.pairwise(widths))
    }


def perceptron_flops(widths: tuple[int, ...]) -> float:
    """Returns FLOPs of a forward pass of one vector through layers of these widths."""
    return 2.0 * sum(a * b for a, b in itertools.pairwise(widths))


def perceptron(params: dict[str, Any], x: Float[AnyArray, "*batch D"]) -> Float[Array, "*batch O"]:
    """Applies the layers, with a layer norm (without scale and shift) and a GELU between them."""
    for number in range(len(params)):
        if number:
            centred = x - x.mean(axis=-1, keepdims=True)
            variance = jnp.square(centred).mean(axis=-1, keepdims=True)
            x = gelu(centred / jnp.sqrt(variance + 1e-6))
        layer = params[f"layer_{number}"]
        x = x @ layer["kernel"] + layer["bias"]
    return x
