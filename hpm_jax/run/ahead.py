"""Compiles functions in threads, before they are called for the first time."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

MOST_THREADS = 4  # a compiler has threads of its own


def compiler_threads() -> ThreadPoolExecutor:
    """Returns threads in which the functions of a run are compiled, in the order of the calls."""
    return ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "compiler")


def compile_ahead(threads: Executor, function: Any, *arguments: Any) -> Callable[..., Any]:
    """Traces a jitted function now, and compiles it in a thread.

    Args:
        function: from `jax.jit`.
        arguments: arrays, or shapes with the dtypes and shardings of what it will be called with.

    Returns:
        The function. A call waits for the compiler and raises its errors; with other shapes, it
        compiles again.
    """
    compiling = threads.submit(function.lower(*arguments).compile)

    def call(*arguments: Any) -> Any:
        compiling.result()
        return function(*arguments)  # JAX keeps the program with the traced function

    return call
