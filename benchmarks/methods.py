"""What methods cost beside HPM with pixels: parameters, operations and time of a training step.

    python -m benchmarks.methods
    python -m benchmarks.methods hpm simmim capi --size B --batch 16 --steps 0

A row for each arm of configs/compare_methods.py, on noise. Operations are those that XLA counts in
the step before it is compiled, teacher included, with every block unrolled. Time is the processor
time of this machine, the median of the steps; the arms take turns, so that all meet the same
disturbance. Both are over those of `hpm`. With --steps 0 nothing is compiled or timed.
"""

import argparse
import runpy
import statistics
import time

import jax

from hpm_jax.benchmark import noise_batch
from hpm_jax.compare.arms import arm_configs
from hpm_jax.config import freeze
from hpm_jax.config_files import shipped
from hpm_jax.models.sizes import SIZES, SMALL_IMAGE_SIZES
from hpm_jax.run.build import build_sharded_step
from hpm_jax.run.devices import all_devices
from hpm_jax.step.schedules import PretrainTimetable

OVER = "hpm"


class Arm:
    """The step of an arm, its inputs, and the times that it took."""

    def __init__(self, config, compiles: bool):
        devices = all_devices(1)
        parts = build_sharded_step(config, devices)
        batch = config.optimizer.batch_size
        timetable = PretrainTimetable(config, 100 * batch, config.hidden_units)
        schedule = timetable.at(timetable.steps - 1)  # hard patches are there
        key = jax.random.key(0)
        lowered = parts.step.lower(parts.state, *parts.inputs.values(), key, schedule)
        self.operations = lowered.cost_analysis()["flops"] / batch
        self.parameters = sum(x.size for x in jax.tree.leaves(parts.state.params))
        self.times: list[float] = []
        if not compiles:
            return
        placement = jax.tree.map(lambda x: x.sharding, parts.state)
        self.state = jax.jit(parts.init, out_shardings=placement)(key, parts.start)
        noise = noise_batch(parts.inputs).values()
        self.inputs = *map(devices.put, noise), key, schedule
        self.step = lowered.compile()

    def run(self) -> None:
        """One step, timed."""
        began = time.process_time()
        self.state, metrics = self.step(self.state, *self.inputs)
        jax.block_until_ready(metrics)
        self.times.append(time.process_time() - began)

    @property
    def seconds(self) -> float:
        """The median, without the first two."""
        return statistics.median(self.times[2:])


def measure(names: list[str], size: str, batch: int, steps: int) -> str:
    """Returns the table as Markdown."""
    config = runpy.run_path(str(shipped()["compare_methods"]))["get_config"]()
    pixels = 32 if size in SMALL_IMAGE_SIZES else 224
    config.base.data.update(source="synthetic", image_size=(pixels, pixels))
    config.base.model.update(SIZES[size], unroll=0)
    config.base.optimizer.batch_size = batch
    configs = arm_configs(freeze(config))
    chosen = [OVER, *(name for name in names or configs if name != OVER)]
    arms = {name: Arm(configs[name], steps > 0) for name in chosen}
    for _ in range(steps + 2 if steps else 0):
        for arm in arms.values():
            arm.run()
    first = arms[OVER]
    lines = [
        "| method | parameters | GFLOP an image | operations | time |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, arm in arms.items():
        timed = f"{arm.seconds / first.seconds:.2f}" if steps else ""
        over = arm.operations / first.operations
        lines.append(
            f"| {name} | {arm.parameters / 1e6:.2f} M | {arm.operations / 1e9:.2f} | {over:.2f} "
            f"| {timed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods")
    parser.add_argument("names", nargs="*", help="arms of configs/compare_methods.py; all")
    parser.add_argument("--size", default="micro", choices=SIZES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each; 0 for none")
    options = parser.parse_args()
    print(measure(options.names, options.size, options.batch, options.steps))


if __name__ == "__main__":
    main()
