"""Passes a dataset to worker processes in memory that is freed with the run.

`multiprocessing` writes a process's start arguments to a pipe of which it holds both ends. If the
process dies before it has read them, a write larger than the pipe's buffer never returns.
"""

import dataclasses
import functools
import os
import weakref
from pathlib import Path
from typing import Any, cast

import cloudpickle


class HandedOver:
    """A dataclass that worker processes read from memory, not through a pipe."""

    @functools.cached_property
    def _memory(self) -> "Memory":
        return Memory((type(self), self._values()))

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(cast(Any, self)))

    def __reduce__(self) -> tuple[Any, ...]:
        if not hasattr(os, "memfd_create"):  # only on Linux
            return type(self), self._values()
        return receive, (self._memory.path,)


class Memory:
    """Memory that child processes can read while this object is alive."""

    def __init__(self, content: tuple[type, tuple[Any, ...]]):
        number = os.memfd_create("hpm_jax")
        weakref.finalize(self, os.close, number)
        with os.fdopen(os.dup(number), "wb") as file:
            file.write(cloudpickle.dumps(content))
        self.path = f"/proc/{os.getpid()}/fd/{number}"


def receive(path: str) -> Any:
    """Returns the object that a living process has handed over."""
    kind, values = cloudpickle.loads(Path(path).read_bytes())
    return kind(*values)
