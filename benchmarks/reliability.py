"""What the guards against faults cost: checksums beside a save, a fingerprint of a million files.

    python -m benchmarks.reliability --files 1000000

Prints the seconds of the digest of a state, of `check_finite`, and of a whole save of the same
state, medians of five; and the seconds for the fingerprint of a folder of empty files, which this
makes and removes.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from hpm_jax.config import defaults, freeze
from hpm_jax.data.fingerprint import fingerprint
from hpm_jax.data.sources import SOURCES
from hpm_jax.models.sizes import SIZES
from hpm_jax.run.build import Start, build_init, build_method, build_model, build_optimizer
from hpm_jax.run.checkpoints import as_saved, check_finite, checkpoints
from hpm_jax.run.digest import digest

TIMES = 5


def seconds(function) -> float:
    """One call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def of_checkpoints(size: str) -> dict[str, float]:
    """Digest, test for finite numbers, and a save, of HPM at 224 pixels."""
    config = defaults()
    config.data.source = "synthetic"
    config.model.update(SIZES[size])
    config = freeze(config)
    init = build_init(config, build_model(config), build_method(config), build_optimizer(config))
    state = jax.jit(init)(jax.random.key(0), Start())
    parts = as_saved(state)
    jax.block_until_ready(digest(parts))
    check_finite(state)
    found = {"digest": [], "finite": [], "save": []}
    with tempfile.TemporaryDirectory() as folder, checkpoints(folder, keep=1) as saved:
        for step in range(TIMES):
            state = state.replace(step=state.step + 1)
            found["digest"].append(seconds(lambda: jax.block_until_ready(digest(parts))))
            found["finite"].append(seconds(lambda state=state: check_finite(state)))

            def save(state=state):
                saved.save(state)
                saved.wait()

            found["save"].append(seconds(save))
            del step
    found = {name: statistics.median(values) for name, values in found.items()}
    return found | {"GB": sum(x.nbytes for x in jax.tree.leaves(state)) / 1e9}


def of_files(count: int) -> dict[str, float]:
    """Scan and fingerprint of so many empty files in a thousand classes."""
    with tempfile.TemporaryDirectory() as folder:
        classes = [Path(folder) / "train" / f"class_{i:04d}" for i in range(1000)]
        for index, place in enumerate(classes):
            place.mkdir(parents=True)
            for image in range(index, count, len(classes)):
                (place / f"image_{image:07d}.jpg").touch()
        config = defaults()
        config.data.update(source="folder", path=folder)
        data = freeze(config).data
        began = time.perf_counter()
        splits = SOURCES["folder"](data)
        scanned = time.perf_counter()
        fingerprint(splits)
        return {"scan": scanned - began, "fingerprint": time.perf_counter() - scanned}


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--size", default="B")
    options = parser.parse_args()
    found = of_checkpoints(options.size)
    print(f"state of {found['GB']:.2f} GB: " + "  ".join(f"{k} {found[k]:.3f} s" for k in found))
    print(f"digest / save {found['digest'] / found['save']:.1%}")
    if options.files:
        found = of_files(options.files)
        print(f"{options.files:,} files: " + "  ".join(f"{k} {v:.1f} s" for k, v in found.items()))


if __name__ == "__main__":
    main()
