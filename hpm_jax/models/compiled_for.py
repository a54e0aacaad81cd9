"""The devices that a program is traced for, where they are not those of this machine."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Described(NamedTuple):
    """What tracing has to know of devices that cannot be asked."""

    platform: str = ""  # "tpu", "gpu" with cuDNN, or "cpu"; "" for that of this machine
    float8: bool | None = None  # whether they multiply float8; None to ask this machine


HERE = Described()
_described: contextvars.ContextVar[Described] = contextvars.ContextVar("described", default=HERE)


@contextlib.contextmanager
def compiling_for(platform: str = "", float8: bool | None = None) -> Iterator[None]:
    """Describes the devices for programs that are traced inside the block.

    With `float8=True` other devices emulate its products.
    """
    token = _described.set(Described(platform, float8))
    try:
        yield
    finally:
        _described.reset(token)


def described() -> Described:
    """Returns the description that the surrounding block gives, empty outside of any."""
    return _described.get()


def platform() -> str:
    """Returns the platform that is traced for: "cpu", "gpu" or "tpu"."""
    return described().platform or jax.default_backend()
