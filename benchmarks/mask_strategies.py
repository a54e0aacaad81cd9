"""What each mask strategy costs beside random masks.

    python -m benchmarks.mask_strategies
    python -m benchmarks.mask_strategies hard entropy --size L --batch 64

A row for each strategy: the operations of a step over those of the same step with random masks, by
formula (only passes of a teacher or student over the whole image count), and the processor time of
its scores of a batch on this machine, in milliseconds: the median of ten, which does not count
those passes. Processor time is disturbed less by other programs than the time on the clock.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config import Config, defaults, freeze
from hpm_jax.masking import STRATEGIES, Context
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES, SIZES
from hpm_jax.run.build import build_flops, build_method


def config_of(name: str, size: str) -> Config:
    """HPM at 224 pixels with another strategy."""
    config = defaults()
    config.data.source = "synthetic"
    config.model.update(SIZES[size])
    config.mask.strategy = name
    return freeze(config)


def score_time(config: Config, batch: int) -> float:
    """Seconds of all processors for the scores of a batch of noise."""
    method, rng = build_method(config), np.random.default_rng(0)
    strategy, units = method.strategy, method.unit.count
    shapes = {
        "predicted_loss": (batch, units),
        "attention": (batch, units),
        "features": (batch, units, config.model.width),
    }
    readings = {x: jnp.asarray(rng.random(shapes[x]), jnp.float32) for x in strategy.reads}
    patches = rng.standard_normal((batch, units, config.values))
    # the moving average that `reducible` keeps is no part of its scores
    keeps = "own" not in strategy.networks
    state = strategy.init_state({}, method.setting) if keeps else None

    @jax.jit
    def scores(key, patches, n_hard, readings, state):
        seen = {who: readings for who in strategy.networks}
        context = Context(
            patches, method.unit.unit_grid, method.tokenizer, method.hidden, n_hard, seen, state
        )
        return strategy.scores(key, context)

    inputs = jnp.asarray(patches, jnp.float32), jnp.int32(method.hidden // 2), readings, state
    times = []
    for key in jax.random.split(jax.random.key(0), 11):
        before = time.process_time()
        scores(key, *inputs).block_until_ready()
        times.append(time.process_time() - before)
    return statistics.median(times[1:])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mask_strategies")
    parser.add_argument("names", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--size", default="B", choices=LARGE_IMAGE_SIZES)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    random = build_flops(config_of("random", options.size)).total
    print("strategy        operations  ms of a batch")
    for name in options.names:
        config = config_of(name, options.size)
        ratio = build_flops(config).total / random
        print(
            f"{name:15} {ratio:10.2f}  {1e3 * score_time(config, options.batch):13.1f}", flush=True
        )


if __name__ == "__main__":
    main()
