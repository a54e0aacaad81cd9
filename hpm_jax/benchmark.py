"""Measures training speed of a config: `python -m hpm_jax.benchmark --config configs/x.py`."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator()  # before NumPy and JAX are imported

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from hpm_jax.main import parse


def main(argv: list[str]) -> None:
    """Prints a table and writes the numbers to the file of `--json`."""
    from hpm_jax.config import freeze
    from hpm_jax.errors import one_sentence

    if flags.FLAGS.config is None:
        sys.exit("error: --config is missing, as in --config configs/quickstart.py")
    config = flags.FLAGS.config
    if config.get("task") in ("segment", "detect") and not config.init_from:
        config.init_from = "a benchmark reads no weights"
    with one_sentence():
        numbers = benchmark(freeze(config), flags.FLAGS.steps, flags.FLAGS.pipeline)
    print(table(numbers))
    if flags.FLAGS.json:
        Path(flags.FLAGS.json).write_text(json.dumps(numbers, indent=2) + "\n")


def benchmark(config: Any, steps: int = 10, pipeline: bool = False) -> dict[str, Any]:
    """Times the training step of a config of pre-training, segmentation or detection.

    The parts of a step of detection are not timed, nor is its data.

    Args:
        config: from `hpm_jax.config.freeze`.
        steps: number of timed steps; the median is reported.
        pipeline: whether to train on the config's own data as well.

    Returns:
        Numbers by name: seconds, images per second, bytes, and fractions from 0 to 1. `share/*` are
        fractions of the step, with each part compiled separately: `teacher` (with the mask, in
        pre-training), `forward`, `backward` and `update`, which is the rest.
    """
    from hpm_jax.errors import ConfigError
    from hpm_jax.run.devices import all_devices
    from hpm_jax.run.prepared import prepare
    from hpm_jax.run.throughput import peak_flops

    devices = all_devices(config.run.fsdp)
    prepared = prepare(config, devices)
    if pipeline and config.task not in PARTS:
        raise ConfigError(
            f"--pipeline: the data of config.task = {config.task!r} cannot be timed here: leave "
            "the flag out, and read data_wait of a run"
        )
    batch = config.optimizer.batch_size
    key = jax.random.key(config.seed)
    timetable = prepared.timetable(batch)
    schedule = timetable.at(timetable.steps // 2)._replace(learning_rate=np.float32(1e-6))

    placement = jax.tree.map(lambda x: x.sharding, prepared.state)
    state = jax.jit(prepared.init, out_shardings=placement)(key, prepared.start)
    noise = noise_batch(prepared.inputs)
    inputs = [devices.put(part[devices.rows(batch)]) for part in noise.values()]

    # --- the whole step
    began = time.perf_counter()
    step = prepared.step.lower(prepared.state, *inputs, key, schedule).compile()
    compiled = time.perf_counter() - began

    def whole():
        nonlocal state
        state, metrics = step(state, *inputs, key, schedule)
        return metrics

    seconds = median_time(whole, steps)
    peak, source = peak_flops()
    memory = step.memory_analysis()
    numbers: dict[str, Any] = {
        "device": f"{devices.count} x {jax.devices()[0].device_kind}",
        "batch_size": batch,
        "compile_seconds": compiled,
        "step_seconds": seconds,
        "images_per_second": batch / seconds,
        "gflop_per_image": prepared.flops / 1e9,
        "mfu": prepared.flops * batch / seconds / peak,
        "peak": f"{peak / 1e12:.3g} TFLOP/s ({source})",
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }

    if config.task in PARTS:
        numbers |= shares_of(config, devices, noise, state, key, schedule, seconds, steps)
    if pipeline:
        numbers |= with_data(config, devices, prepared, step, state, key, steps)
    return numbers


def shares_of(config, devices, noise, state, key, schedule, seconds, steps) -> dict[str, float]:
    """Times the parts of a step of so many seconds, over one accumulation part of the batch."""
    batch, parts = config.optimizer.batch_size, config.optimizer.accumulation
    part = {name: x[: batch // parts] for name, x in noise.items()}
    first, loss = PARTS[config.task](config, devices, part)
    forward = jax.jit(lambda state, seen: loss(state, seen, schedule, state.params))
    gradient = jax.jit(
        lambda state, seen: jax.grad(lambda p: loss(state, seen, schedule, p))(state.params)
    )
    seen = first(state, key, schedule)
    teacher = parts * median_time(lambda: first(state, key, schedule), steps)
    ahead = parts * median_time(lambda: forward(state, seen), steps)
    both = parts * median_time(lambda: gradient(state, seen), steps)
    shares = {PREPARING[config.task]: teacher, "forward": ahead, "backward": both - ahead}
    shares["update"] = max(seconds - teacher - both, 0.0)
    total = sum(shares.values())
    return {f"share/{name}": value / total for name, value in shares.items()}


def noise_batch(inputs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Returns a global batch of noise for a step with `inputs`: pixels at random, labels 0."""
    image = inputs["image"]
    zeros = {name: np.zeros(x.shape, x.dtype) for name, x in inputs.items()}
    noise = np.random.default_rng(0).integers(0, 256, image.shape).astype(image.dtype)
    return zeros | {"image": noise}


PREPARING = {"pretrain": "teacher", "segment": "prepare"}  # what precedes the forward pass


def parts_of_pretraining(config, devices, batch):
    """Builds the mask, with the teacher, and the loss: `first(state, key, schedule) -> masked`."""
    from hpm_jax.run.build import build_method, build_model
    from hpm_jax.step.mask import make_mask, read_networks
    from hpm_jax.step.step import Masked, draw_all, masked_loss

    model, method = build_model(config, devices.gather), build_method(config)
    patches = method.patches(batch["image"])
    annotations = {name: part for name, part in batch.items() if name != "image"}

    @jax.jit
    def first(state, key, schedule):
        readings = read_networks(model, method, state, patches, jnp.asarray(schedule.n_hard))
        mask = make_mask(method, state, patches, key, schedule, readings.units)
        drawn = draw_all(method, mask, key, 0)
        return Masked(patches, mask, drawn, readings.target, annotations)

    def loss(state, masked, schedule, params):
        return masked_loss(model, method, state)(params, masked, schedule)[0]

    return first, loss


def parts_of_segmentation(config, devices, batch):
    """Builds the preparation of a batch, and the loss."""
    from hpm_jax.run.build_dense import build_segment_recipe, build_segmenter
    from hpm_jax.step.segment_step import prepare, segmentation_loss

    model = build_segmenter(config, config.data.classes, devices.gather)
    recipe = build_segment_recipe(config)

    @jax.jit
    def first(state, key, schedule):
        return prepare(model, recipe, batch["image"], batch["label_map"], key, state.step)

    def loss(state, prepared, schedule, params):
        return segmentation_loss(model, recipe, state)(params, prepared, schedule)[0]

    return first, loss


PARTS = {"pretrain": parts_of_pretraining, "segment": parts_of_segmentation}


def with_data(config, devices, prepared, step, state, key, steps) -> dict[str, float]:
    """Times the same step on the config's own data: rate, and fraction of time spent waiting."""
    from hpm_jax.data.pipeline import train_batches
    from hpm_jax.data.segment_views import segment_view
    from hpm_jax.data.segmented import Segmented
    from hpm_jax.data.sources import SOURCES

    records: Any = SOURCES[config.data.source](config.data).train
    options: dict[str, Any] = {}
    if config.task == "segment":
        records = Segmented(records, config.data, config.data.classes)
        options = {"view": segment_view(config.data, config.augment)}
    schedule = prepared.timetable(len(records)).at(0)
    rows = devices.rows(config.optimizer.batch_size)
    batches = train_batches(records, config, 0, rows, **options)
    next(batches)  # workers are up
    waited, began = 0.0, time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches)
        inputs = [devices.put(batch[name]) for name in prepared.inputs]
        waited += time.perf_counter() - start
        state, metrics = step(state, *inputs, key, schedule)
        jax.block_until_ready(metrics)
    seconds = time.perf_counter() - began
    batches.close()
    return {
        "pipeline/images_per_second": steps * config.optimizer.batch_size / seconds,
        "pipeline/data_wait": waited / seconds,
    }


def median_time(call: Callable[[], Any], steps: int) -> float:
    """Returns the median seconds of one call, including the wait for its result."""
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def table(numbers: dict[str, Any]) -> str:
    """Formats the numbers as a table."""
    lines = []
    for name, value in numbers.items():
        if isinstance(value, float):
            share = name in ("mfu", "pipeline/data_wait") or name.startswith("share/")
            value = f"{value:.1%}" if share else f"{value:,.4g}"
        elif name.endswith("bytes"):
            value = f"{value / 2**20:,.0f} MiB"
        lines.append(f"{name:<28} {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    flags.DEFINE_integer("steps", 10, "Number of timed steps, after two to warm up")
    flags.DEFINE_bool("pipeline", False, "Whether to train on the config's own data as well")
    flags.DEFINE_string("json", None, "JSON file for the numbers")
    app.run(main, flags_parser=parse)
