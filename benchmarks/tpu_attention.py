"""What the TPU compiler schedules for our fused attention, beside what it estimates for XLA's.

    python -m benchmarks.tpu_attention --topology v5e:2x2

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
    parser.add_argument("--topology", default="v5e:2x2", help="TPU slice that is compiled for")
    parser.add_argument("--batch", type=int, default=128, help="number of images")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    # before jax starts
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true",
    }
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from hpm_jax.models.attention import attend
    from hpm_jax.models.tpu_attention import block_width, fused_attention
    from hpm_jax.plan import slice_of
    from hpm_jax.plan.program import work

    place = NamedSharding(
        Mesh(np.array(slice_of(options.topology)[:1]), ("chip",)), PartitionSpec()
    )

    def compiled(mix, shape, backward):
        def gradients(query, key, value, weight):
            return jax.vjp(mix, query, key, value)[1](weight)

        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        shutil.rmtree(folder)
        folder.mkdir()
        return jax.jit(gradients if backward else mix).lower(*[x] * (3 + backward)).compile()

    print("| tokens, head, heads | XLA, forward | with backward | ours, forward | backward |")
    print("| --- | --: | --: | --: | --: |")
    for tokens, head, heads in SHAPES:
        cells = []
        for backward in (False, True):
            shape = options.batch, heads, tokens, head
            cycles = work(compiled(attend, shape, backward).as_text()).cycles
            cells.append(cycles / options.batch / heads)
        together = block_width(head, heads * head) / head
        for backward in (False, True):
            shape = options.batch, tokens, heads * head
            compiled(lambda *x, heads=heads: fused_attention(*x, heads), shape, backward)
            cells.append(bundles(folder) / together)
        print(f"| {tokens}, {head}, {heads} |", " | ".join(f"{x:.0f}" for x in cells), "|")


if __name__ == "__main__":
    main()
