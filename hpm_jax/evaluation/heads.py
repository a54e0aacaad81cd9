"""The heads of probes: a linear classifier, and attentive pooling with a linear classifier."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.config import ConfigError

Params = Any


class Head(NamedTuple):
    """A classifier as two functions for one setting; a sweep maps them over its settings."""

    init: Callable[[Array, tuple[int, ...], int], Params]  # (key, shape of a feature, classes)
    apply: Callable[[Params, Array], Array]  # features [B, ...] float32 to logits [B, classes]
    optimizer: str  # default optimizer


def _linear_init(key: Array, shape: tuple[int, ...], classes: int) -> Params:
    if len(shape) != 1:
        raise ConfigError(f"features of shape {shape}: a linear probe takes one vector an image")
    # timm's trunc_normal_(std=0.01) truncates at 200 standard deviations: in effect nothing
    kernel = 0.01 * jax.random.normal(key, (*shape, classes))
    return {"kernel": kernel, "bias": jnp.zeros(classes)}


def _linear_apply(params: Params, features: Array) -> Array:
    return features @ params["kernel"] + params["bias"]


# The linear probe of MAE (main_linprob.py): features [B, D].
linear = Head(_linear_init, _linear_apply, "sgd")


@functools.cache  # one compilation per head
def attentive(heads: int) -> Head:
    """The attentive probe of CAE (Chen et al. 2022), on tokens `[B, N, D]`.

    A learned query attends over the tokens (multi-head cross-attention with key, value and output
    projections), without residual and MLP; a layer norm; then a linear classifier.

    Args:
        heads: number of attention heads, which divides the width.
    """

    def init(key: Array, shape: tuple[int, ...], classes: int) -> Params:
        if len(shape) != 2 or shape[1] % heads:
            raise ConfigError(
                f"features of shape {shape}: an attentive probe takes tokens [N, D] of each "
                f"image, with D a multiple of its {heads} heads"
            )
        width = shape[1]
        keys = iter(jax.random.split(key, 5))

        def kernel():
            return jax.nn.initializers.xavier_uniform()(next(keys), (width, width))

        return {
            "query": 0.02 * jax.random.normal(next(keys), (width,)),
            "key": {"kernel": kernel()},  # a bias would add a constant to all scores
            "value": {"kernel": kernel(), "bias": jnp.zeros(width)},
            "projection": {"kernel": kernel(), "bias": jnp.zeros(width)},
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
            "classifier": _linear_init(next(keys), (width,), classes),
        }

    def apply(params: Params, tokens: Array) -> Array:
        batch, _, width = tokens.shape

        def split(array):
            return array.reshape(-1, heads, width // heads)

        # The query is the same for all images, so it is multiplied with the key projection first,
        # and tokens are pooled before the value projection: two products with [D, heads] in place
        # of two with [D, D] for every token, with the same result.
        query = split(params["query"])[0] * (width // heads) ** -0.5
        directions = jnp.einsum("dhs,hs->dh", split(params["key"]["kernel"]), query)
        weights = jax.nn.softmax(tokens @ directions, axis=1)  # [B, N, heads]
        pooled = jnp.einsum("bnh,bnd->bhd", weights, tokens)
        values = jnp.einsum("bhd,dhs->bhs", pooled, split(params["value"]["kernel"]))
        values = values.reshape(batch, width) + params["value"]["bias"]
        out = _linear_apply(params["projection"], values)
        out = jax.nn.standardize(out, axis=-1, epsilon=1e-6)
        out = out * params["norm"]["scale"] + params["norm"]["bias"]
        return _linear_apply(params["classifier"], out)

    return Head(init, apply, "adamw")
