"""Several seeds in one compiled step (`vmap`), or one after the other?

    python -m benchmarks.seeds_together --together 2 4 8

The arm `hpm` of configs/compare_cifar10.py on noise. Each count of seeds is timed in turn with one
seed alone; the ratio of seconds for a step of a seed is printed, the median of the turns: above 1,
one by one is faster.
"""

import argparse
import statistics

from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

import jax
import numpy as np

from benchmarks.comparison import comparison_on
from hpm_jax.compare.arms import arm_configs
from hpm_jax.compare.train import train_seeds

STEPS = 75


def seconds(config, images: np.ndarray, seeds: int) -> float:
    """For a step of one seed, where so many are trained together."""
    batch = config.optimizer.batch_size
    (trained, *_) = train_seeds(
        config,
        range(seeds),
        {"image": images[:seeds]},
        STEPS * batch,
        (1.0,),
        25,
        lambda line: None,
    )
    return trained.seconds_per_step / seeds


def main() -> None:
    """Prints a line for each count."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds_together")
    parser.add_argument("--together", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    config = arm_configs(comparison_on("nowhere"))["hpm"]
    shape = (max(options.together), STEPS, config.optimizer.batch_size, *config.data.train_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    print(f"on {jax.device_count()} x {jax.devices()[0].device_kind}")
    for count in options.together:
        times = [
            (seconds(config, images, 1), seconds(config, images, count))
            for _ in range(options.turns)
        ]
        ratio = statistics.median(several / alone for alone, several in times)
        alone = statistics.median(alone for alone, _ in times)
        print(f"{count} seeds: {ratio:.2f} of the {1e3 * alone:.0f} ms of one", flush=True)


if __name__ == "__main__":
    main()
