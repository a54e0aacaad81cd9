"""A checksum of a state, one number per array, independent of the number of devices."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MIXER = 0x9E3779B1  # odd: 2**32 over the golden ratio
LARGE, ROWS = 2**20, 8  # arrays of so many words are summed by so many rows


def digest(tree: Any) -> Array:
    """Returns `[leaves]` uint32: the sum over each array of its bits times an odd weight per place.

    Integer sums do not depend on their order, so the digest is the same on other devices. A single
    flipped bit always changes it: 2**k times an odd number is not 0 modulo 2**32. It is computed on
    the devices of the arrays, in one pass.
    """
    leaves = jax.tree.leaves(tree)
    devices = {device for x in leaves if isinstance(x, Array) for device in x.devices()}
    return _digest(leaves, {device.platform for device in devices} <= {"cpu"} and len(devices) < 2)


@functools.partial(jax.jit, static_argnums=1)
def _digest(arrays: list[Array], fold: bool) -> Array:
    words = [_as_words(x) for x in arrays]
    return jnp.stack([_folded(x) if fold and x.size >= LARGE else _weighted(x) for x in words])


def _weights(places: Array) -> Array:
    return (places * np.uint32(MIXER)) << 1 | np.uint32(1)


def _weighted(words: Array) -> Array:
    """The sum, in the layout of the array, so that nothing of a sharded one moves."""
    places = jnp.zeros(words.shape, jnp.uint32)
    for axis, stride in enumerate(np.cumprod([1, *words.shape[::-1]])[-2::-1]):
        of_axis = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        places = places + of_axis * np.uint32(stride)
    return jnp.sum(words * _weights(places), dtype=jnp.uint32)


def _folded(words: Array) -> Array:
    """The same sum by sums of long rows, which XLA vectorises on a CPU; for one device.

    The weight at place `row * length + column` is that of the column plus a number for the row.
    """
    words = words.reshape(-1)
    length = words.size // ROWS
    rows = [words[row * length : (row + 1) * length] for row in range(ROWS)]
    of_row = [np.uint32(2 * row * length * MIXER % 2**32) for row in range(ROWS)]
    plain = functools.reduce(jnp.add, rows)
    by_row = functools.reduce(jnp.add, [x * weight for x, weight in zip(rows, of_row, strict=True)])
    plain, by_row = jax.lax.optimization_barrier((plain, by_row))  # else XLA fuses it all again
    columns = jax.lax.iota(jnp.uint32, length)
    rest = jnp.arange(ROWS * length, words.size, dtype=jnp.uint32)
    last = jnp.sum(words[ROWS * length :] * _weights(rest), dtype=jnp.uint32)
    return jnp.sum(plain * _weights(columns) + by_row, dtype=jnp.uint32) + last


def _as_words(array: Array) -> Array:
    """Returns the bits of every element as uint32; elements of 8 bytes become two."""
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
    """Returns the names of float arrays that contain NaN or infinity."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(x.dtype, jnp.floating) and math.prod(x.shape)
    ]
    if not named:
        return []
    good = np.asarray(_finite([x for _, x in named]))
    return [name for (name, _), fine in zip(named, good, strict=True) if not fine]
