"""Other ways to compute the training step, each against the package's own in one process.

    python -m benchmarks.step_variants                           # all of them, on small images
    python -m benchmarks.step_variants last_block_whole unroll_all --size S --batch 8
    python -m benchmarks.step_variants decoders_at_once --size B --batch 64 --topology v5e:2x2
    python -m benchmarks.step_variants --workdir runs/cifar10_hpm
    python -m benchmarks.step_variants compile_cache --size S

Prints a table, row by row. On this machine: the time of the package's step over the time of the
variant, so more than 1 where the variant is faster (median and quartiles of pairs that take turns),
the same of processor time, which other programs disturb less, and of temporary memory, seconds to
compile, and the largest deviation of loss, gradients and predicted losses. With `--topology` both
are compiled for one device that is not here, a TPU (pip install libtpu) or an NVIDIA GPU (pip
install "jax[cuda13]"): ratios of temporary memory, of memory traffic and, for TPUs, of the
compiler's own estimate of cycles. With `--workdir`: how many of the hardest patches a teacher in
lower precision still chooses on test images of a pre-trained run.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable

from hpm_jax.plan.machines import NO_DEVICES, machine
from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

Row = Callable[[str], list[str]]  # of the table, for the name of a variant


def config_of(options: argparse.Namespace):
    """HPM of a size, on images of 32 or 224 pixels; in bfloat16 for a device that is not here."""
    from hpm_jax.config import defaults, freeze
    from hpm_jax.models.sizes import SIZES, SMALL_IMAGE_SIZES

    small = options.size in SMALL_IMAGE_SIZES
    side, unroll = (32, 0) if small else (224, 1)
    config = defaults()
    config.data.update(source="synthetic", image_size=(side, side))
    config.model.update(SIZES[options.size])
    config.model.dtype = options.dtype or ("bfloat16" if options.topology else "float32")
    config.model.unroll = unroll if options.unroll is None else options.unroll
    config.optimizer.batch_size = options.batch
    return freeze(config)


def on_this_machine(options: argparse.Namespace) -> tuple[list[str], Row]:
    """Times, and deviations."""
    from benchmarks.variants import measure
    from benchmarks.variants.table import VARIANTS

    bench = measure.bench_of(config_of(options))
    own = measure.compile_step(bench, bench.subject)
    outcome = measure.outcome_of(bench, bench.subject, own)
    take = measure.taker(bench, own)

    def row(name):
        subject = VARIANTS[name].change(bench.subject)
        other = measure.compile_step(bench, subject)
        apart = measure.deviation(outcome, measure.outcome_of(bench, subject, other))
        found = measure.ratios(take, measure.taker(bench, other), options.pairs)
        return [
            *("{:.2f} ({:.2f} to {:.2f})".format(*measure.spread(x)) for x in found),
            f"{own.temporaries / other.temporaries:.2f}",
            f"{own.seconds:.1f} to {other.seconds:.1f}",
            f"{apart:.1e}" + ("" if VARIANTS[name].same else ", other mathematics"),
        ]

    return ["faster", "less processor time", "less memory", "compile s", "deviation"], row


def compiled_elsewhere(options: argparse.Namespace) -> tuple[list[str], Row]:
    """What the program for one device costs."""
    from benchmarks.variants.compiled import shapes_on, step_cost
    from benchmarks.variants.table import VARIANTS

    bench = shapes_on(options.topology, config_of(options))
    own = step_cost(options.topology, bench, bench.subject)

    def row(name):
        cost = own
        if name != "package":
            cost = step_cost(options.topology, bench, VARIANTS[name].change(bench.subject))
        ratios = [
            f"{before / after:.2f}" if after else ""
            for before, after in zip(own, cost, strict=True)
        ]
        sizes = [f"{size / 2**30:.2f}" for size in (cost.temporaries, cost.traffic)]
        return [*ratios, *sizes, f"{cost.cycles / 1e6:.1f}" if cost.cycles else ""]

    heads = ["less memory", "less traffic", "fewer cycles", "GiB", "GiB moved", "million cycles"]
    return heads, row


def on_a_run(options: argparse.Namespace) -> tuple[list[str], Row]:
    """What a teacher chooses on the test images of its run."""
    import jax
    import jax.numpy as jnp

    from benchmarks.variants.measure import teacher_losses
    from benchmarks.variants.precision import agreement
    from benchmarks.variants.run import run_and_patches
    from benchmarks.variants.table import VARIANTS, Subject

    run, patches = run_and_patches(options.workdir, options.images)
    count = run.config.hidden // 2

    def predicted(model):
        return jax.jit(lambda *x: teacher_losses(model, *x))(run.state.teacher, patches)

    own = predicted(run.model)

    def row(name):
        other = predicted(VARIANTS[name].change(Subject(run.model, run.method)).model)
        apart = float(jnp.abs(own - other).max() / jnp.abs(own).max())
        return [f"{float(agreement(own, other, count)):.1%}", f"{apart:.1e}"]

    return [f"same of the {count} hardest of {patches.shape[1]}", "deviation"], row


def of_the_cache(options: argparse.Namespace) -> tuple[list[str], Row]:
    """Seconds to compile the package's step, and to find it in the persistent cache."""
    import jax

    from benchmarks.variants.measure import bench_of, compile_step

    bench = bench_of(config_of(options))

    def row(_):
        with tempfile.TemporaryDirectory() as folder:
            jax.config.update("jax_compilation_cache_dir", folder)
            times = []
            for _ in range(2):
                jax.clear_caches()
                times.append(f"{compile_step(bench, bench.subject).seconds:.1f}")
        return times

    return ["compiled, s", "from the cache, s"], row


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="variants; default: all that apply")
    parser.add_argument("--size", choices=("micro", "tiny", "S", "B", "L", "H"), default="micro")
    parser.add_argument("--batch", type=int, default=64, help="images in a step")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="dtype of the package's step"
    )
    parser.add_argument("--unroll", type=int, help="blocks unrolled in the package's step")
    parser.add_argument("--pairs", type=int, default=10, help="number of timed pairs of steps")
    parser.add_argument("--topology", help="compile for a device of v5e:2x2, h100:1 or another")
    parser.add_argument(
        "--workdir", help="workdir of a pre-trained run, for variants of the teacher"
    )
    parser.add_argument(
        "--images", type=int, default=2000, help="number of images of its test split"
    )
    return parser.parse_args(arguments)


def main() -> None:
    """A variant that cannot be built says why in its row, and does not end the others."""
    options = options_of(sys.argv[1:])
    if options.topology:
        os.environ |= NO_DEVICES
    import jax

    from benchmarks.variants.table import VARIANTS

    here = jax.default_backend()
    place = machine(options.topology).platform if options.topology else here
    names = [name for name, variant in VARIANTS.items() if variant.only_on in ("", place)]
    if options.names == ["compile_cache"]:
        table, names = of_the_cache, options.names
    elif options.workdir:
        table, names = on_a_run, [name for name in names if name.startswith("teacher_")]
    else:
        table = compiled_elsewhere if options.topology else on_this_machine
    heads, row = table(options)
    print("|", " | ".join(["variant", *heads]), "|")
    print("| ---" + " | --:" * len(heads), "|", flush=True)
    for name in options.names or names:
        try:
            cells = row(name)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:160]
            cells = [f"refused: {reason}"]
        print("|", " | ".join([name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
