"""Decoder blocks with their gradient, compiled for one device that is not here.

    python -m benchmarks.compiled_blocks --topology h100:1
    python -m benchmarks.compiled_blocks --topology v5e:2x2 --batch 64

A `Stack` of the width of the decoders of HPM, 512 with 16 heads, on 197 tokens in bfloat16, scanned
and unrolled, with each attention of the device. A row says how much memory the program needs beside
its arguments, and how much it moves: in GiB, and for each block in arrays of tokens `[B, N, D]`
that are read or written. Cycles are the estimate of the compiler for TPUs, which has none for
kernels in Pallas. No device is needed: pip install libtpu, or "jax[cuda13]" for GPUs.
"""

import argparse
import os

from hpm_jax.plan.machines import GIB, NO_DEVICES, machine

TOKENS, WIDTH, HEADS, DEPTH = 197, 512, 16, 4
ATTENTIONS = {"tpu": ("xla", "pallas"), "gpu": ("xla", "cudnn")}


def main() -> None:
    """Prints a row for each attention, scanned and unrolled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="h100:1", help="TPU slice or GPUs, for their first")
    parser.add_argument("--batch", type=int, default=256, help="number of images")
    parser.add_argument("--attention", nargs="+", help="default: those of the device")
    parser.add_argument("--unroll", nargs="+", type=int, default=[1, 0], help="0 unrolls all")
    options = parser.parse_args()
    os.environ |= NO_DEVICES  # before jax starts
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from benchmarks.described import cost_of, first_device, tracing_for
    from hpm_jax.models.stack import Stack

    place = SingleDeviceSharding(first_device(options.topology))

    def placed(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    tokens = jax.ShapeDtypeStruct((options.batch, TOKENS, WIDTH), jnp.bfloat16, sharding=place)
    print("| attention | blocks | temporaries, GiB | traffic, GiB | arrays a block | M cycles |")
    print("| --- | --- | --: | --: | --: | --: |")
    for attention in options.attention or ATTENTIONS[machine(options.topology).platform]:
        for unroll in options.unroll:
            stack = Stack(DEPTH, HEADS, jnp.bfloat16, attention=attention, unroll=unroll)
            params = jax.tree.map(placed, jax.eval_shape(stack.init, jax.random.key(0), tokens))

            def gradients(params, x, weight, stack=stack):
                return jax.vjp(stack.apply, params, x)[1](weight)

            with tracing_for(options.topology):
                lowered = jax.jit(gradients).lower(params, tokens, tokens)
            cost = cost_of(lowered)
            arrays = cost.traffic / (2 * options.batch * TOKENS * WIDTH * DEPTH)
            cells = [
                attention,
                f"{unroll} a step" if unroll else "unrolled",
                f"{cost.temporaries / GIB:.2f}",
                f"{cost.traffic / GIB:.2f}",
                f"{arrays:.1f}",
                f"{cost.cycles / 1e6:.1f}" if cost.cycles else "",
            ]
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
