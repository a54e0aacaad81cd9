"""Rates of the products of tokens and kernels on a CPU, by XLA and, if installed, by PyTorch.

    python -m benchmarks.cpu_products
    python -m benchmarks.cpu_products --rows 16640 --inputs 64 --outputs 256

Prints GFLOP/s of processor time, the median of all turns: other programs on the machine matter
less. `transposed` stands for a result or an operand with one column a token.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# rows, inputs and outputs of ViT-B's encoder and decoder with 8 images, and of `micro` with 256
SHAPES = ((400, 768, 3072), (1576, 512, 2048), (1576, 512, 512), (16640, 64, 256))
FLOATS = 3e8  # multiplications of one turn


def of_kernel(tokens: Any, gradient: Any) -> Any:
    """`[N, W]` and `[N, D]` to `[W, D]`, contracting rows as they are."""
    return jax.lax.dot_general(tokens, gradient, (((0,), (0,)), ((), ())))


def of_kernel_transposed(tokens: Any, gradient: Any) -> Any:
    """The same from tokens that are transposed first."""
    return jax.lax.optimization_barrier(tokens.T) @ gradient


def products(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """Calls by name; each returns when it is done."""
    draw = np.random.default_rng(0).normal
    shapes = (rows, inputs), (inputs, outputs), (rows, outputs)
    tokens, kernel, gradient = (draw(size=shape).astype(np.float32) for shape in shapes)
    by_xla: dict[str, tuple[Callable[..., Any], Any, Any]] = {
        "output": (lambda x, w: x @ w, tokens, kernel),
        "output, transposed": (lambda x, w: jnp.einsum("nw,wd->dn", x, w), tokens, kernel),
        "of tokens": (lambda g, w: g @ w.T, gradient, kernel),
        "of kernel": (of_kernel, tokens, gradient),
        "of kernel, transposed": (of_kernel_transposed, tokens, gradient),
    }

    def call(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        placed = [jnp.asarray(x) for x in arguments]
        compiled = jax.jit(function).lower(*placed).compile()
        return lambda: jax.block_until_ready(compiled(*placed))

    calls = {name: call(*parts) for name, parts in by_xla.items()}
    if importlib.util.find_spec("torch"):
        import torch

        x, w, g = map(torch.from_numpy, (tokens, kernel, gradient))
        calls |= {
            "PyTorch, output": lambda: x @ w,
            "PyTorch, of tokens": lambda: g @ w.T,
            "PyTorch, of kernel": lambda: x.T @ g,
        }
    return calls


def rates(shape: tuple[int, int, int], turns: int) -> dict[str, float]:
    """GFLOP/s of processor time by name."""
    size = shape[0] * shape[1] * shape[2]
    repeats = max(1, int(FLOATS / size))
    calls = products(*shape)
    found: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for name, call in calls.items():
            began = time.process_time()
            for _ in range(repeats):
                call()
            if turn:  # the first turn warms up
                seconds = (time.process_time() - began) / repeats
                found.setdefault(name, []).append(2e-9 * size / seconds)
    return {name: statistics.median(rate) for name, rate in found.items()}


def main() -> None:
    """Prints a line for each product."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("rows", "inputs", "outputs"):
        parser.add_argument(f"--{name}", type=int, help="of one product; default: a few shapes")
    parser.add_argument("--turns", type=int, default=9, help="number of timed turns")
    options = parser.parse_args()
    given = options.rows, options.inputs, options.outputs
    for shape in (given,) if all(given) else SHAPES:
        print("{} rows, {} inputs, {} outputs".format(*shape))
        for name, rate in rates(shape, options.turns).items():
            print(f"    {name:<24} {rate:6.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
