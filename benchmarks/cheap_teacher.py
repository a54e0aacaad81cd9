"""What a cheaper teacher costs, and which patches it chooses.

    python -m benchmarks.cheap_teacher --workdir runs/cifar10_hpm --out teacher.json
    python -m benchmarks.cheap_teacher --size B --batch 64 --topology v5e:2x2 --out teacher.json
    python -m benchmarks.cheap_teacher --size B --batch 256 --topology h100:1 --attention cudnn

With `--workdir`, of a pre-training run on images with a loss predictor, on its test images: the
share of the patches that are hidden because they are hard that equals the choice of the teacher
that sees the whole image in float32; the rank correlation of its predictions with those of this
teacher, and with the true losses of the student; the mean true loss of the chosen patches over
that of all; and the processor time of the pass over that of this teacher, in turns. True losses
are means over eight random masks. With `--topology`, the pass alone is compiled for one device that
is not present, a TPU (pip install libtpu) or a GPU (pip install "jax[cuda13]"). Always: operations
of the step of `configs/hpm_in1k.py` over those of an MAE step. Results are added to `--out` as they
come.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpm_jax.plan.machines import NO_DEVICES
from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

VARIANTS = {
    "whole": "",
    "bfloat16": "dtype='bfloat16'",
    "int8": "dtype='int8'",
    "float8": "dtype='float8'",
    "parts": "view='parts'",
    "half": "view='half'",
    "visible": "view='visible'",
    "visible_int8": "view='visible', dtype='int8'",
}
MASKS = 8
Row = dict[str, float]


def teacher_of(name: str) -> Any:
    """Returns the teacher of a variant."""
    from hpm_jax.teachers import Teacher

    return Teacher.parse_call(f"moving_average({VARIANTS[name]})", name)


def operations(size: str) -> Callable[[str], Row]:
    """Operations of teacher and step of the ImageNet recipe, over those of an MAE step."""
    from hpm_jax.config import defaults, freeze
    from hpm_jax.config.methods import set_method
    from hpm_jax.models.sizes import SIZES
    from hpm_jax.run.build import build_flops

    config = defaults()
    config.data.source = "synthetic"
    config.model.update(SIZES[size])
    set_method(config, "mae")
    mae = build_flops(freeze(config)).total

    def row(name: str) -> Row:
        set_method(config, "hpm", teacher_of(name).call)
        flops = build_flops(freeze(config))
        return {"teacher": flops.teacher / mae, "step": flops.total / mae}

    return row


def on_a_run(workdir: str, images: int, turns: int) -> Callable[[str], Row]:
    """Choices of the teacher of a run, and the time of its pass."""
    import jax
    import jax.numpy as jnp

    from benchmarks.mismatch import rank_correlation
    from benchmarks.variants.precision import agreement
    from benchmarks.variants.run import run_and_patches
    from hpm_jax.models.compiled_for import compiling_for
    from hpm_jax.step.mask import run_network

    run, patches = run_and_patches(workdir, images)
    count = run.config.hidden_units // 2
    true = jax.jit(lambda state, patches: true_losses(run, state, patches))(run.state, patches)

    def predict(name: str) -> Any:
        method = dataclasses.replace(run.method, teacher=teacher_of(name))

        def predicted(params, patches):
            found = run_network(run.model, method, params, patches, key=jax.random.key(1))
            return found["predicted_loss"]

        with compiling_for(float8=True):  # emulated, for its numbers
            return jax.jit(predicted).lower(run.state.teacher, patches).compile()

    reference = predict("whole")
    whole = reference(run.state.teacher, patches)

    def seconds(program: Any) -> float:
        began = time.process_time()
        jax.block_until_ready(program(run.state.teacher, patches))
        return time.process_time() - began

    def row(name: str) -> Row:
        program = predict(name)
        found = program(run.state.teacher, patches)
        chosen = jax.lax.top_k(found, count)[1]
        ratios = [seconds(program) / seconds(reference) for _ in range(turns)]
        numbers = {
            "same_patches": agreement(whole, found, count),
            "correlation": rank_correlation(whole, found),
            "true_correlation": rank_correlation(true, found),
            "chosen_loss": jnp.take_along_axis(true, chosen, axis=1).mean() / true.mean(),
            "processor_time": statistics.median(ratios),
        }
        return {key: float(value) for key, value in numbers.items()}

    return row


def true_losses(run: Any, state: Any, patches: Any) -> Any:
    """The student's mean loss of each patch `[B, L]` over random masks that hide it."""
    import jax
    import jax.numpy as jnp

    from hpm_jax.masking.selection import select
    from hpm_jax.step.step import Masked, student_pass

    rows = jnp.arange(len(patches))[:, None]
    total = times = jnp.zeros(patches.shape[:2])
    for number in range(MASKS):
        noise = jax.random.uniform(jax.random.key(number), (len(patches), run.method.unit.count))
        mask = run.method.unit.spread(select(noise, run.method.hidden))
        masked = Masked(patches, mask)
        losses = student_pass(run.model, run.method.at_random, state, state.params, masked).losses
        total, times = total.at[rows, mask.hide].add(losses), times.at[rows, mask.hide].add(1.0)
    return total / jnp.maximum(times, 1.0)


def compiled_elsewhere(topology: str, size: str, batch: int, **model: Any) -> Callable[[str], Row]:
    """What the program of the pass alone costs on one device, in bfloat16."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from benchmarks.described import cost_of, first_device, tracing_for
    from hpm_jax.config import defaults, freeze
    from hpm_jax.models.sizes import SIZES
    from hpm_jax.run.build import build_method, build_model
    from hpm_jax.step.mask import run_network
    from hpm_jax.step.state import param_shapes

    config = defaults()
    config.data.source = "synthetic"
    config.model.update(SIZES[size], dtype="bfloat16", **model)
    frozen = freeze(config)
    method, device = build_method(frozen), SingleDeviceSharding(first_device(topology))

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    network = build_model(frozen)
    params = jax.tree.map(shape, param_shapes(network))
    images = shape(jax.ShapeDtypeStruct((batch, frozen.patches, frozen.values), jnp.float32))
    key = shape(jax.eval_shape(lambda: jax.random.key(0)))

    def row(name: str) -> Row:
        taught = dataclasses.replace(method, teacher=teacher_of(name))

        def predicted(params, patches, key):
            return run_network(network, taught, params, patches, key=key)

        with tracing_for(topology):
            lowered = jax.jit(predicted).lower(params, images, key)
        return cost_of(lowered)._asdict()

    return row


def main() -> None:
    """Measures every variant, and prints what is known of it; one that is refused says why."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help="variants; default: all")
    parser.add_argument("--workdir", help="workdir of a pre-training run")
    parser.add_argument("--images", type=int, default=1000, help="number of its test images")
    parser.add_argument("--turns", type=int, default=5, help="timed pairs of passes")
    parser.add_argument("--size", default="B", help="model of operations and of --topology")
    parser.add_argument("--batch", type=int, default=64, help="images of a pass, with --topology")
    parser.add_argument("--topology", help="compile for a device of v5e:2x2, h100:1 or another")
    parser.add_argument("--attention", default="xla", help="of the model, with --topology")
    parser.add_argument("--unroll", type=int, default=1, help="of the model, with --topology")
    parser.add_argument("--out", type=Path, help="JSON file to which results are added")
    options = parser.parse_args()
    if options.topology:
        os.environ |= NO_DEVICES
    measures: dict[str, Callable[[str], Row]] = {"operations": operations(options.size)}
    if options.workdir:
        measures["run"] = on_a_run(options.workdir, options.images, options.turns)
    if options.topology:
        model = {"attention": options.attention, "unroll": options.unroll}
        measures[options.topology] = compiled_elsewhere(
            options.topology, options.size, options.batch, **model
        )
    table = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for name in options.names or VARIANTS:
        for kind, measure in measures.items():
            try:
                table.setdefault(kind, {})[name] = measure(name)
            except Exception as error:
                reason = str(error).strip().splitlines()[0][:160]
                table.setdefault(kind, {})[name] = {"refused": reason}
            print(name, kind, json.dumps(table[kind][name]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
