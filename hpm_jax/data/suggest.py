"""Suggests options for data and a machine: sizes, batch, epochs, workers and dtype, by rules.

The rules are not tuned on a benchmark. They follow the sizes and learning rates of the published
recipes and the available memory. Each rule is one line of a table or one function here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD
from hpm_jax.models.sizes import SIZES


class DataFacts(NamedTuple):
    """Facts about the data."""

    images: int  # number of training images
    height: int = 224  # the median
    width: int = 224
    channels: int = 3
    value_range: tuple[float, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    encoded: bool = True  # files that must be decoded
    elongated: bool = False  # nearly all have the same long shape


class Machine(NamedTuple):
    """Facts about the machine."""

    platform: str = "cpu"  # cpu, gpu or tpu
    devices: int = 1
    memory: int = 0  # bytes per device; 0 if unknown
    cores: int = 2
    bfloat16: bool = False  # whether it is fast


class Rung(NamedTuple):
    """Settings for images with a short side up to `upto`."""

    upto: int
    pixels: int  # 0 for the side itself
    patch: int


LADDER = (
    Rung(40, 0, 4),
    Rung(80, 64, 8),
    Rung(120, 96, 8),
    Rung(176, 128, 8),
    Rung(10**9, 224, 16),
)
MOST_SIDES = 3  # largest aspect ratio of suggested image sizes, for elongated images
LONG = 1.5
STEPS = 60_000  # approximate number of steps of a run on an accelerator
CPU_STEPS = 4_000
# bytes of activations of one image at 196 patches in float32, roughly: they choose `accumulation`
ACTIVATIONS = {"micro": 4e6, "tiny": 12e6, "S": 60e6, "B": 150e6, "L": 400e6, "H": 700e6}
OPTIMIZER = {"micro": 4e7, "tiny": 2e8, "S": 6e8, "B": 2.5e9, "L": 7e9, "H": 14e9}


def suggest(
    facts: DataFacts, machine: Machine, fixed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns consistent options by name, such as `model.width`.

    Args:
        fixed: given options, which take precedence and determine the others; `size` is a name of
            `hpm_jax.models.sizes.SIZES`.
    """
    fixed = dict(fixed or {})
    rung = next(rung for rung in LADDER if min(facts.height, facts.width) <= rung.upto)
    size = fixed.pop("size", "") or _size(facts, machine, rung)
    found: dict[str, Any] = {f"model.{name}": value for name, value in SIZES[size].items()}
    if "data.image_size" in fixed:
        side = min(fixed["data.image_size"])
        rung = next(rung for rung in LADDER if side <= rung.upto)
    small = size in ("micro", "tiny")
    if not (rung.patch == 16 and SIZES[size]["patch_size"] == 14):  # H has 14, which divides 224
        found["model.patch_size"] = rung.patch
    patch = fixed.get("model.patch_size", found["model.patch_size"])
    found["data.image_size"] = fixed.get("data.image_size") or _image_size(facts, rung, patch)
    found |= _pixels(facts)

    batch = fixed.get("optimizer.batch_size") or _batch(facts, machine, small)
    epochs = fixed.get("optimizer.epochs") or _epochs(facts, machine, batch)
    found |= {
        "optimizer.batch_size": batch,
        "optimizer.epochs": epochs,
        "optimizer.warmup_epochs": round(0.05 * epochs, 2),
        "optimizer.base_learning_rate": 1e-3 if small else 1.5e-4,
        "optimizer.accumulation": _accumulation(found, size, batch, machine),
        "teacher": f"moving_average(start=0.99, end=0.999, ramp_epochs={max(1, epochs // 2)})",
        "evaluation.every_epochs": max(1.0, epochs / 20),
        "model.dtype": "bfloat16" if machine.bfloat16 else "float32",
        "run.workers": _workers(facts, machine, max(found["data.image_size"])),
    }
    return found | {name: value for name, value in fixed.items() if name in found}


def _size(facts: DataFacts, machine: Machine, rung: Rung) -> str:
    """Returns a model size: larger for more images, small on a CPU and for small images."""
    if machine.platform == "cpu":
        return "micro"
    if rung.patch < 16:
        return "tiny" if facts.images < 500_000 else "S"
    if facts.images < 200_000:
        return "S"
    large = facts.images >= 5_000_000 and machine.memory * machine.devices >= 300e9
    return "L" if large else "B"


def _image_size(facts: DataFacts, rung: Rung, patch: int) -> tuple[int, int]:
    """Returns a square size unless images share an elongated shape; a multiple of the patch."""
    short, long = sorted((facts.height, facts.width))
    side = max(2, round((rung.pixels or short) / patch)) * patch
    if not facts.elongated or long < LONG * short:
        return (side, side)
    other = round(side * min(long / short, MOST_SIDES) / patch) * patch
    return (side, other) if facts.width > facts.height else (other, side)


def _pixels(facts: DataFacts) -> dict[str, Any]:
    """Returns pixel options: ImageNet's mean and deviation for photographs, as is common."""
    found: dict[str, Any] = {"data.channels": facts.channels, "data.value_range": facts.value_range}
    mean, std = facts.mean, facts.std
    if facts.channels == 3 and not facts.value_range:
        near = all(abs(a - b) < 0.5 * s for a, b, s in zip(mean, IMAGENET_MEAN, std, strict=True))
        alike = all(0.5 < a / b < 2 for a, b in zip(std, IMAGENET_STD, strict=True))
        if near and alike:
            mean, std = IMAGENET_MEAN, IMAGENET_STD
    return found | {"data.mean": mean, "data.std": std}


def _batch(facts: DataFacts, machine: Machine, small: bool) -> int:
    """Returns a batch size: a power of two per device, at least 8 steps an epoch, as in recipes."""
    most = 64 if machine.platform == "cpu" else 256 if facts.images < 200_000 else 1024
    batch = 8
    while batch * 2 <= min(most, facts.images // 8):
        batch *= 2
    each = max(1, batch // machine.devices)
    whole = each * machine.devices
    return whole if whole <= max(1, facts.images) else max(1, facts.images)


def _epochs(facts: DataFacts, machine: Machine, batch: int) -> int:
    steps = CPU_STEPS if machine.platform == "cpu" else STEPS
    epochs = steps * batch / max(1, facts.images)
    low, high = (10, 400) if machine.platform == "cpu" else (100, 1600)
    return int(min(high, max(low, float(f"{epochs:.1g}"))))


def _accumulation(found: Mapping[str, Any], size: str, batch: int, machine: Machine) -> int:
    """Returns the number of accumulation parts so that activations fit into device memory."""
    if not machine.memory:
        return 1
    height, width = found["data.image_size"]
    patches = height * width / found["model.patch_size"] ** 2
    each = ACTIVATIONS[size] * patches / 196 * (0.5 if machine.bfloat16 else 1)
    room = 0.8 * machine.memory - OPTIMIZER[size]
    parts = 1
    while each * batch / machine.devices / parts > room and batch % (2 * parts) == 0:
        if batch // (2 * parts) < machine.devices:
            break
        parts *= 2
    return parts


def _workers(facts: DataFacts, machine: Machine, side: int) -> int:
    """Returns the number of decoding processes; threads suffice for small images and arrays."""
    if not facts.encoded or side <= 40:
        return 0
    return max(1, min(16, machine.cores - (1 if machine.cores > 2 else 0)))


def facts_of(splits: Any, data: Any, sample: int = 200) -> DataFacts:
    """Measures facts on an evenly spaced sample; a few seconds for images of usual sizes.

    Raises:
        DataError: if none of the sample can be read.
    """
    from hpm_jax.data.inspect.survey import sizes_of
    from hpm_jax.data.statistics import measure

    found = measure(splits.train, data, sample)
    sizes = sizes_of(splits.train, sample)
    heights, widths = (sorted(side) for side in zip(*sizes, strict=True))
    height, width = heights[len(heights) // 2], widths[len(widths) // 2]
    aspects = sorted(w / h for h, w in sizes)
    low, high = aspects[len(aspects) // 20], aspects[-1 - len(aspects) // 20]
    first = splits.train[0]["image"]
    return DataFacts(
        images=len(splits.train),
        height=height,
        width=width,
        channels=found.channels,
        value_range=found.value_range,
        mean=found.mean,
        std=found.std,
        encoded=isinstance(first, bytes),
        elongated=low > 0 and (low >= LONG or high <= 1 / LONG),
    )


def this_machine() -> Machine:
    """Returns the facts that JAX and the operating system report."""
    import os

    import jax

    device = jax.devices()[0]
    platform = {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)
    stats = (device.memory_stats() or {}) if platform != "cpu" else {}
    capability = float(getattr(device, "compute_capability", 0) or 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(
        platform=platform,
        devices=jax.device_count(),
        memory=int(stats.get("bytes_limit", 0)),
        cores=cores or 1,
        bfloat16=platform == "tpu" or (platform == "gpu" and capability >= 8),
    )
