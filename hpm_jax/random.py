"""Named streams of random numbers: adding a stream does not change the others."""

import zlib

import jax


def stream(key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """Returns the key of stream `name` at `step`: `fold_in(fold_in(key, hash(name)), step)`.

    Args:
        key: the root key of the run.
        name: purpose of the numbers, such as "mask".
        step: the optimizer step, an integer scalar, traced or not.
    """
    # crc32, because Python's hash of a string differs between processes
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)
