"""Writes a store, shard by shard, so that it can be stopped and resumed at any time."""

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordWriter
from rich.progress import track

from hpm_jax.data.decoding import MARGIN, BrokenImage, EncodedImage
from hpm_jax.data.records import DataError, Records, Splits, Subset
from hpm_jax.data.resizing import resize
from hpm_jax.data.store import INDEX

SHARD_IMAGES = 4096  # work lost by an interruption; about 180 MB at 256 pixels
MOST_FILES = 512  # per split: readers hold them open, and many systems allow 1024
LAYOUT = "group_size:1,uncompressed"  # records are read singly, and JPEG is already compressed


class Shard(NamedTuple):
    """One file and its contents."""

    path: Path
    records: Records
    short_side: int
    quality: int

    @property
    def note(self) -> Path:
        """The path of the shard's note, written when the shard is complete."""
        return self.path.with_suffix(".json")


def shrink(image: bytes, short_side: int, quality: int) -> bytes:
    """Returns an image file with its short side reduced to `short_side` pixels.

    A larger image is resized (bicubic, antialiased) to an upright JPEG with 4:2:0 chroma. A smaller
    image is unchanged.

    Raises:
        BrokenImage: for bytes that cannot be decoded.
    """
    encoded = EncodedImage(image)
    height, width = encoded.height, encoded.width
    needed = (MARGIN * short_side, MARGIN * short_side)
    pixels = encoded.pixels(3, encoded.smallest_scale(height, width, needed))
    factor = short_side / min(height, width)
    if factor >= 1:
        return image
    pixels = resize(pixels, (round(height * factor), round(width * factor)))
    if (pixels == pixels[..., :1]).all():
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), quality, "GRAY")
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")


def write_shard(shard: Shard) -> dict[str, Any]:
    """Writes a shard, unless its note exists.

    Returns:
        The note: `labels`, `broken` (names and reasons), and bytes `before` and `after`.
    """
    if shard.note.exists():
        return json.loads(shard.note.read_text())
    labels, broken, before = [], [], 0
    part = shard.path.with_suffix(".part")
    writer = ArrayRecordWriter(str(part), LAYOUT)
    for index in range(len(shard.records)):
        try:
            record = shard.records[index]
            image, label = record["image"], record.get("label", -1)
            small = shrink(image, shard.short_side, shard.quality)
        except (BrokenImage, OSError) as error:
            broken.append(f"{shard.records.name(index)}: {error}")
            continue
        writer.write(small)
        labels.append(label)
        before += len(image)
    writer.close()
    os.replace(part, shard.path)
    after = shard.path.stat().st_size
    note = {"labels": labels, "broken": broken, "before": before, "after": after}
    _write_json(shard.note, note)
    return note


def write_store(
    splits: Splits,
    out: Path,
    short_side: int = 256,
    quality: int = 95,
    workers: int = 1,
    max_broken: float = 0.01,
    shard_images: int = SHARD_IMAGES,
) -> dict[str, Any]:
    """Writes a store, or the missing parts of one.

    Args:
        splits: the splits of a source whose images are files.
        out: folder of the store, created if necessary.
        short_side: short side of the stored images, in pixels.
        quality: JPEG quality, 1 to 100.
        workers: number of processes.
        max_broken: largest fraction of unreadable images in a split.
        shard_images: number of images per file; more if there would be too many files.

    Returns:
        The content of `store.json`: the `plan`, and for each of the `splits` its `shards` (by name:
        images and bytes), `labels`, `broken` images with the reasons, and bytes `before`.

    Raises:
        DataError: if the folder holds something else, or too many images cannot be read.
    """
    records = {"train": splits.train, "test": splits.test}
    plan = {
        "short_side": short_side,
        "quality": quality,
        "shard_images": shard_images,
        "images": {name: len(split) for name, split in records.items()},
        "classes": list(splits.classes),
    }
    index = _begin(out, plan)
    if "splits" in index:
        return index

    shards = {}
    for name, split in records.items():
        count = min(-(-len(split) // shard_images), MOST_FILES)
        shards[name] = [
            Shard(
                out / f"{name}-{number:05}-of-{count:05}.array_record",
                Subset(split, part),
                short_side,
                quality,
            )
            for number, part in enumerate(np.array_split(np.arange(len(split)), count))
        ]
    work = [shard for listed in shards.values() for shard in listed]
    notes = dict(track(_written(work, workers), "shards", len(work)))

    index["splits"] = {
        name: _joined({shard.path.name: notes[shard.path] for shard in listed})
        for name, listed in shards.items()
    }
    for name, split in index["splits"].items():
        _check_broken(name, split["broken"], len(records[name]), max_broken)
    _write_json(out / INDEX, index)
    for shard in work:
        shard.note.unlink()
    return index


def _begin(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Creates the folder or checks its contents; returns `store.json` as written so far."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / INDEX).exists():
        if any(out.iterdir()):
            raise DataError(f"{out} holds other files: give an empty or a new folder.")
        _write_json(out / INDEX, {"plan": plan})
    index = json.loads((out / INDEX).read_text())
    for key, value in plan.items():
        if index["plan"][key] != value:
            raise DataError(
                f"{out} was begun with {key} = {index['plan'][key]}, now it is {value}: give "
                "another folder, or remove this one."
            )
    return index


def _written(work: list[Shard], workers: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields paths and notes of all shards, in the order of completion."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_die_with_the_command) as pool:
        try:
            futures = {pool.submit(write_shard, shard): shard.path for shard in work}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _joined(notes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the entry of a split in `store.json`."""
    return {
        "shards": {name: (len(note["labels"]), note["after"]) for name, note in notes.items()},
        "labels": [label for note in notes.values() for label in note["labels"]],
        "broken": [line for note in notes.values() for line in note["broken"]],
        "before": sum(note["before"] for note in notes.values()),
    }


def _check_broken(name: str, broken: list[str], images: int, allowed: float) -> None:
    if len(broken) > max(1, allowed * images) or len(broken) == images:
        listed = "\n  ".join(broken[:10])
        raise DataError(
            f"{len(broken)} of {images} images of the {name} split cannot be read, more than "
            f"max_broken = {allowed:g} allows:\n  {listed}\n"
            "Repair them and write a new store, or allow more."
        )


def _die_with_the_command() -> None:
    """Ends a worker with its command: otherwise it would write to the next command's files."""
    command = multiprocessing.parent_process()

    def follow():
        command.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON atomically."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(value))
    os.replace(beside, path)
