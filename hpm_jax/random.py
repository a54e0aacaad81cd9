"""Named streams of random numbers: adding one never shifts another."""

import zlib

import jax


def stream(key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of stream `name` at `step`: `fold_in(fold_in(key, hash(name)), step)`.

    Args:
        key: the root key of the run.
        name: what the numbers are for, such as "mask".
        step: the optimizer step, an integer scalar, traced or not.
    """
    # crc32, because Python's own hash of a string changes from process to process
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)
