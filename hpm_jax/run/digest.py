"""A checksum of a state that is the same on any number of devices: one number for each array."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MIXER = 0x9E3779B1  # odd: 2**32 over the golden ratio


@jax.jit
def digest(tree: Any) -> Array:
    """`[leaves]` uint32: the sum over each array of its bits times an odd number of the place.

    Sums of integers do not depend on their order, so a state that is read onto other devices has
    the same digest. A single flipped bit changes it always: 2**k times an odd number is not 0
    modulo 2**32. It is computed where the arrays lie, in one pass over them.
    """
    return jnp.stack([_of_array(x) for x in jax.tree.leaves(tree)])


def _of_array(array: Array) -> Array:
    bits = _as_words(array)
    strides = np.cumprod([1, *bits.shape[::-1]])[:-1][::-1]
    axes = range(bits.ndim)
    place = functools.reduce(
        jnp.add,
        [jax.lax.broadcasted_iota(jnp.uint32, bits.shape, a) * np.uint32(strides[a]) for a in axes],
        jnp.zeros(bits.shape, jnp.uint32),
    )
    weight = (place * np.uint32(MIXER)) << 1 | np.uint32(1)
    return jnp.sum(bits * weight, dtype=jnp.uint32)


def _as_words(array: Array) -> Array:
    """The bits of every element as uint32; elements of 8 bytes become two."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    size = array.dtype.itemsize
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)


@jax.jit
def _finite(arrays: list[Array]) -> Array:
    return jnp.stack([jnp.isfinite(x).all() for x in arrays])


def not_finite(tree: Any) -> list[str]:
    """The names of the arrays of floats that hold something that is not a number, or infinite."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(x.dtype, jnp.floating) and math.prod(x.shape)
    ]
    if not named:
        return []
    good = np.asarray(_finite([x for _, x in named]))
    return [name for (name, _), fine in zip(named, good, strict=True) if not fine]
