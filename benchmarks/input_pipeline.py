"""How many images a core makes ready for training: this pipeline and the usual one, in turns.

The usual one is that of PyTorch: PIL opens a file and converts it to RGB, torchvision draws a
RandomResizedCrop and resizes it, and mirrors it or not. Without torchvision its steps are restated
with PIL. Every way ends with a contiguous uint8 array; the files are in the page cache.

First one thread by CPU time, so that a busy machine does not distort it, with and without the
compiled extensions, whose pixels are compared too. Then `train_batches`, with
threads and with worker processes, by both clocks: images a second of CPU time are what a core does,
and the cores are those that it got. Last, how crops of stored images differ from the originals'.

    python -m benchmarks.input_pipeline --images FOLDER_OR_TAR [--short_side 256 --quality 95]
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from hpm_jax.config import defaults, freeze
from hpm_jax.data import jpeg, resizing
from hpm_jax.data.decoding import EncodedImage
from hpm_jax.data.geometry import Box, cut
from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.sources import SOURCES, Records
from hpm_jax.data.store.write import write_store
from hpm_jax.data.transforms import random_box
from hpm_jax.data.views import train_view

SIZE, SCALE, RATIO = 224, (0.2, 1.0), (3 / 4, 4 / 3)
BATCH = 16
PARALLEL = {"1 thread": (1, 0), "2 threads": (2, 0), "1 worker": (1, 1), "2 workers": (1, 2)}


def main():
    """Makes a store of the images, measures, and prints three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder or tar of JPEG files")
    parser.add_argument("--short_side", type=int, default=256, help="short side of stored images")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality of the store")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        unpack(args.images, root)
        options = options_of("folder", root)
        splits = SOURCES["folder"](options.data)
        write_store(splits, Path(folder) / "store", args.short_side, args.quality)
        stored = options_of("store", Path(folder) / "store")
        records = {"originals": splits.train, "store": SOURCES["store"](stored.data).train}
        print(f"{len(splits.train)} images, store: {args.short_side} pixels at {args.quality}")
        compare_extensions(splits.train, options.data)
        one_core(records, options.data, args.repeats)
        in_parallel(records, {"originals": options, "store": stored}, args.repeats)
        pixels(records)


def unpack(images: Path, root: Path) -> None:
    """Copies the JPEG files of a folder or a tar archive to `train`, and one of them to `test`."""
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
    if images.is_dir():
        found = {file.name: file.read_bytes() for file in images.rglob("*") if file.is_file()}
    else:
        with tarfile.open(images) as tar:
            found = {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isfile()}
    found = {name: data for name, data in sorted(found.items()) if data.startswith(b"\xff\xd8")}
    for name, data in found.items():
        (root / "train" / name).with_suffix(".jpg").write_bytes(data)
    (root / "test" / "one.jpg").write_bytes(next(iter(found.values())))


def options_of(source: str, path: Path, threads: int = 1, workers: int = 0) -> Any:
    """The options of a pre-training run on these images."""
    config = defaults()
    config.data.update(source=source, path=str(path), image_size=(SIZE, SIZE))
    config.data.update(crop_scale=SCALE, crop_ratio=RATIO)
    config.optimizer.batch_size = BATCH
    config.run.update(threads=threads, workers=workers, prefetch=2)
    return freeze(config)


# --- one core


@contextlib.contextmanager
def not_compiled(*names: str) -> Iterator[None]:
    """The pipeline as it is without the named extensions."""
    with contextlib.ExitStack() as stack:
        if "jpeg" in names:
            stack.enter_context(mock.patch.object(jpeg, "_compiled", None))
        if "resize" in names:
            stack.enter_context(mock.patch.object(resizing, "_extension", lambda: None))
        yield


def compare_extensions(records: Records, data: Any) -> None:
    """How many training crops differ between the extensions and the libraries that they replace."""
    view = train_view(data)
    crops = []
    for names in ((), ("jpeg", "resize")):
        rng = np.random.default_rng(0)
        with not_compiled(*names):
            crops.append([view(records[i], rng)["image"] for i in range(len(records))])
    changed = sum(not np.array_equal(a, b) for a, b in zip(*crops, strict=True))
    found = {"_jpeg": jpeg._compiled is not None, "_resize": resizing._extension() is not None}
    print(f"extensions: {found}; they change {changed} of {len(records)} crops")


def one_core(records: dict[str, Records], data: Any, repeats: int) -> None:
    """Images a second of CPU time in one thread, all ways taking turns."""
    rng, view = np.random.default_rng(0), train_view(data)
    usual, whose = usual_pipelines()
    originals = records["originals"]
    ways = {
        f"{whose}, {name}": (lambda index, load=load: load(originals.name(index)), ())
        for name, load in usual.items()
    }
    missing = {"": (), ", _resize only": ("jpeg",), ", not compiled": ("jpeg", "resize")}
    ways |= {
        f"hpm_jax, {name}{what}": (lambda index, r=r: view(r[index], rng), names)
        for name, r in records.items()
        for what, names in missing.items()
    }
    seconds = {name: [] for name in ways}
    for _ in range(repeats + 1):  # the first is to warm up
        for name, (load, names) in ways.items():
            with not_compiled(*names):
                began = time.process_time()
                for index in range(len(originals)):  # a mirrored crop is copied, at the latest now
                    np.ascontiguousarray(load(index))
                seconds[name].append((time.process_time() - began) / len(originals))
    base = next(iter(seconds.values()))[1:]
    print(f"\n{'one thread, CPU time':<34}{'images/s':>9}{'ratio':>8}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(base, times[1:], strict=True))
        print(f"{name:<34}{1 / statistics.median(times[1:]):9.0f}{ratio:7.2f}x")


def usual_pipelines() -> tuple[dict[str, Callable[[str], np.ndarray]], str]:
    """From a path to a training crop, by interpolation; and the library whose code it is."""
    modes = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    try:
        transforms, whose = import_torchvision(), "torchvision"
    except ImportError as error:
        print(f"torchvision is restated with PIL: {error}")
        rng = np.random.default_rng(0)
        return {
            name: lambda path, m=mode: restated(path, rng, m) for name, mode in modes.items()
        }, "PIL"

    def pipeline(mode):
        crop = transforms.RandomResizedCrop(
            SIZE, SCALE, RATIO, transforms.InterpolationMode(mode), antialias=True
        )
        augment = transforms.Compose([crop, transforms.RandomHorizontalFlip()])
        return lambda path: np.asarray(augment(open_rgb(path)))

    return {mode: pipeline(mode) for mode in modes}, whose


def import_torchvision() -> Any:
    """`torchvision.transforms`, also of a torchvision whose own operators do not load."""
    import torch

    try:
        import torchvision.transforms as transforms
    except RuntimeError:  # they are missed where they are described; PIL's images need none
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.keep = library
        import torchvision.transforms as transforms
    torch.set_num_threads(1)
    return transforms


def open_rgb(path: str) -> Image.Image:
    """The loader of torchvision's ImageFolder."""
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def restated(path: str, rng: np.random.Generator, mode: Image.Resampling) -> np.ndarray:
    """RandomResizedCrop and RandomHorizontalFlip as torchvision does them on PIL's images."""
    image = open_rgb(path)
    box = random_box(rng, image.height, image.width, SCALE, RATIO)
    image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    image = image.resize((SIZE, SIZE), mode)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


# --- all cores


def in_parallel(records: dict[str, Records], options: dict[str, Any], repeats: int) -> None:
    """Images a second, from batches as the trainer takes them: by the clock, and of CPU time."""
    running = {}
    for name, config in options.items():
        for how, (threads, workers) in PARALLEL.items():
            own = options_of(config.data.source, Path(config.data.path), threads, workers)
            there = multiprocessing.active_children()
            batches = train_batches(records[name], own)
            next(batches)
            started = [p.pid for p in multiprocessing.active_children() if p not in there]
            running[name, how] = batches, started
    rates = {key: [] for key in running}
    for _ in range(repeats):
        for key, (batches, workers) in running.items():
            time.sleep(2)  # until the one before has filled its buffers again
            rates[key].append(rate(batches, workers))
    print(f"\n{'train_batches':<20}{'':<12}{'images/s':>9}{'of CPU time':>13}{'cores':>7}")
    for (name, how), pairs in rates.items():
        clock, cpu = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{'hpm_jax, ' + name:<20}{how:<12}{clock:9.0f}{cpu:13.0f}{clock / cpu:7.2f}")
    print(f"{os.cpu_count()} cores, with a load of {os.getloadavg()[0]:.1f} in the last minute")
    for batches, _ in running.values():
        batches.close()


def rate(batches: Any, workers: list[int], ahead: int = 16, count: int = 32) -> tuple[float, float]:
    """Images a second by the clock and of CPU time, once what lay ready is taken."""
    for _ in range(ahead):
        next(batches)
    began, used = time.perf_counter(), cpu_seconds(workers)
    for _ in range(count):
        next(batches)
    images = count * BATCH
    return images / (time.perf_counter() - began), images / (cpu_seconds(workers) - used)


def cpu_seconds(workers: list[int]) -> float:
    """CPU time of this process and of the worker processes (Linux)."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in workers]
    ticks = sum(int(stat[11]) + int(stat[12]) for stat in stats)  # utime and stime
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


# --- what a store changes


def pixels(records: dict[str, Records], crops: int = 4) -> None:
    """PSNR of crops of stored images against the same crops of the originals."""
    rng, errors = np.random.default_rng(0), []
    for index in range(len(records["store"])):
        original, stored = (
            EncodedImage(records[name][index]["image"]).pixels(3) for name in ("originals", "store")
        )
        down, across = (stored.shape[side] / original.shape[side] for side in (0, 1))
        for _ in range(crops):
            box = random_box(rng, *original.shape[:2], SCALE, RATIO)
            same = Box(box.top * down, box.left * across, box.height * down, box.width * across)
            crop, other = (
                cut(image, place, (SIZE, SIZE)).astype(np.float64)
                for image, place in ((original, box), (stored, same))
            )
            errors.append(np.mean((crop - other) ** 2))
    psnr = [10 * math.log10(255**2 / max(error, 1e-9)) for error in errors]
    print(f"\nPSNR of {len(psnr)} crops of stored images against the originals")
    print(
        f"median {statistics.median(psnr):.1f} dB, 5 % are under {np.quantile(psnr, 0.05):.1f} dB"
    )


if __name__ == "__main__":
    main()
