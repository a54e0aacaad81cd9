"""Training steps on noise that lies on the device, timed in turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.variants.measure import bench_of, compile_step, taker
from hpm_jax.config import defaults, freeze
from hpm_jax.models.sizes import SIZES
from hpm_jax.run.build import build_flops
from hpm_jax.run.throughput import peak_flops

Take = Callable[[], None]  # takes one step and waits for it


def noise_config(
    size: str,
    side: int,
    batch: int,
    *,
    hpm: bool = True,
    teacher: str = "",
    clip: float = 0.0,
    **model: Any,
) -> Any:
    """Pre-training of a ViT on noise, by HPM or by MAE; frozen.

    Args:
        size: a name in `SIZES`.
        side: of the images, in pixels.
        batch: images in a step.
        teacher: that of HPM, as in `config.teacher`; "" for the default.
        clip: the largest norm of the gradient; 0 for any.
        model: further options of the model, such as `dtype`.
    """
    config = defaults()
    config.data.update(source="synthetic", image_size=(side, side))
    config.model.update(SIZES[size])
    config.model.update(model)
    config.target = "normalized_pixels"
    if teacher:
        config.teacher = teacher
    if not hpm:
        config.mask.strategy, config.losses, config.teacher = "random", (), "none"
    config.optimizer.update(batch_size=batch, clip_norm=clip)
    return freeze(config)


def our_step(config: Any) -> Take:
    """The package's step of a config, compiled; half of the hidden patches are hard."""
    bench = bench_of(config)
    return taker(bench, compile_step(bench, bench.subject))


def in_turns(takes: dict[str, Take], turns: int) -> dict[str, float]:
    """Median seconds of a step of each, after two that compile and warm up.

    They take turns, so that a machine that slows down slows all.
    """
    times: dict[str, list[float]] = {name: [] for name in takes}
    for turn in range(turns + 2):
        for name, take in takes.items():
            began = time.perf_counter()
            take()
            if turn >= 2:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def utilisation(config: Any, seconds: float) -> tuple[float, str]:
    """MFU of a step of so many seconds, and where the peak comes from."""
    peak, source = peak_flops()
    return build_flops(config).total * config.optimizer.batch_size / seconds / peak, source
