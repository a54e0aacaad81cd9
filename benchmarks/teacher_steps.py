"""The time of a step of HPM with cheaper teachers, in steps of MAE, on this device.

    python -m benchmarks.teacher_steps --size B --batch 256 --dtype bfloat16

On noise that lies on the device. For each teacher, the step and the teacher's pass alone take turns
with the step of MAE; the ratios of the medians are printed. A device that would emulate a dtype
refuses it.
"""

import argparse

from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

import jax

from benchmarks.cheap_teacher import VARIANTS
from benchmarks.steps import Take, in_turns, noise_config, our_step
from benchmarks.variants.measure import bench_of, compile_step, taker
from hpm_jax.errors import ConfigError
from hpm_jax.step.mask import run_network

NAMES = ("whole", "visible", "int8", "float8", "visible_int8")


def step_and_pass(config) -> dict[str, Take]:
    """The step of a config, and the pass of its teacher alone."""
    bench = bench_of(config)
    model, method = bench.subject.model, bench.subject.method
    patches = jax.jit(method.patches)(bench.images)
    predict = jax.jit(lambda params, x, key: run_network(model, method, params, x, key=key))
    return {
        "step": taker(bench, compile_step(bench, bench.subject)),
        "pass": lambda: jax.block_until_ready(predict(bench.state.teacher, patches, bench.key)),
    }


def main() -> None:
    """Prints a row for each teacher."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(VARIANTS)}; default: five of them")
    parser.add_argument("--size", default="B", help="model")
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=256, help="images in a step")
    parser.add_argument("--dtype", default="bfloat16", help="of the model")
    parser.add_argument("--attention", default="auto", help="of the model")
    parser.add_argument("--steps", type=int, default=10, help="timed turns")
    options = parser.parse_args()
    common = options.size, options.side, options.batch
    model = {"dtype": options.dtype, "attention": options.attention}
    mae = our_step(noise_config(*common, hpm=False, **model))
    print(f"on {jax.device_count()} x {jax.devices()[0].device_kind}")
    print("| teacher | step over an MAE step | pass over an MAE step | step, ms |")
    print("| --- | --: | --: | --: |")
    for name in options.names or NAMES:
        teacher = f"moving_average({VARIANTS[name]})"
        try:
            config = noise_config(*common, teacher=teacher, **model)
            times = in_turns({"mae": mae} | step_and_pass(config), options.steps)
        except ConfigError as error:
            print(f"| {name} | refused: {error} |", flush=True)
            continue
        step, alone = (times[part] / times["mae"] for part in ("step", "pass"))
        print(f"| {name} | {step:.2f} | {alone:.2f} | {1e3 * times['step']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
