"""What the TPU compiler schedules for our fused attention, or estimates for XLA's.

    python -m benchmarks.tpu_attention pallas --topology v5e:2x2
    python -m benchmarks.tpu_attention xla --topology v5e:2x2

No TPU is needed (pip install libtpu). The compiler gives no cycles for a kernel in Pallas, but it
writes its instructions: bundles, of which a core starts one a cycle. Those of the loop over images
are counted; the transfers beside them, and waiting, are not. Cycles of XLA's are its own estimate.
"""

import argparse
import collections
import os
import re
import shutil
import tempfile
from pathlib import Path

from hpm_jax.plan.machines import NO_DEVICES

SHAPES = ((197, 32, 16), (197, 64, 12), (147, 32, 16), (50, 64, 12))  # tokens, head width, heads
BUNDLE = re.compile(r"\s+0x[0-9a-f]+\s+(?:[A-Z]{2})?\s*:\s*((?:> ?)+)\s*\{")


def bundles(folder: Path) -> int:
    """Returns the bundles of the innermost loop of the kernel whose program is in a folder."""
    found = 0
    for file in folder.glob("*-final_bundles.txt"):
        depths = collections.Counter(
            line[1].count(">") for line in map(BUNDLE.match, file.read_text().splitlines()) if line
        )
        if max(depths, default=0) > 1 and "schedule-analysis" not in file.name:
            found = max(found, depths[max(depths)])
    return found


def main() -> None:
    """Prints a row for each shape, in bfloat16: cycles of a head of an image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", choices=("pallas", "xla"))
    parser.add_argument("--topology", default="v5e:2x2", help="TPU slice that is compiled for")
    parser.add_argument("--batch", type=int, default=128, help="number of images")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    os.environ |= NO_DEVICES  # before jax starts
    if options.kernel == "pallas":
        dumped = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        os.environ["LIBTPU_INIT_ARGS"] = dumped
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from benchmarks.described import cost_of, first_device
    from hpm_jax.models.scaled_dot_product import attend
    from hpm_jax.models.tpu_attention import block_width, fused_attention

    place = SingleDeviceSharding(first_device(options.topology))

    def cost(mix, shape, backward):
        def gradients(query, key, value, weight):
            return jax.vjp(mix, query, key, value)[1](weight)

        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        shutil.rmtree(folder)
        folder.mkdir()
        return cost_of(jax.jit(gradients if backward else mix).lower(*[x] * (3 + backward)))

    def cycles_of(tokens, head, heads, backward):
        width = heads * head
        if options.kernel == "xla":
            found = cost(attend, (options.batch, heads, tokens, head), backward)
            return found.cycles / options.batch / heads
        cost(lambda *x: fused_attention(*x, heads), (options.batch, tokens, width), backward)
        return bundles(folder) * head / block_width(head, width)

    last = "backward" if options.kernel == "pallas" else "forward and backward"
    print(f"| {options.kernel}: tokens, head width, heads | forward | {last} |")
    print("| --- | --: | --: |")
    for shape in SHAPES:
        cells = [f"{cycles_of(*shape, backward):.0f}" for backward in (False, True)]
        print(f"| {', '.join(map(str, shape))} |", " | ".join(cells), "|", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
