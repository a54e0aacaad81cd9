"""Images made small once and stored in few files: the source `store` and the command that writes it.

A store is a folder of shards, `train-00000-of-00313.array_record` and so on, whose records are JPEG
files, and `store.json`: the labels, the names of the classes, and what each shard must look like.
It is written by `python -m hpm_jax.data.store --source folder --path IMAGES --out STORE`.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import simplejpeg
from rich.progress import track

from hpm_jax.data.decoding import BrokenImage, EncodedImage, with_channels
from hpm_jax.data.sources import SOURCES, DataError, Record, Records, Splits, Subset
from hpm_jax.data.transforms import MARGIN, resize
from hpm_jax.options import Data

INDEX = "store.json"
SHARD_IMAGES = 4096  # of an interrupted run so many are made again; about 180 MB at 256 pixels
LAYOUT = "group_size:1,uncompressed"  # each record is read alone, and JPEG is compressed already


# --- reading


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """A split of a store; every process opens the shards that it reads, when it first does."""

    source: Any  # grain.sources.ArrayRecordDataSource
    labels: np.ndarray  # int32
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        try:
            return Record(self.source[index], int(self.labels[index]))
        except RuntimeError as error:  # what array_record raises where a checksum does not fit
            raise OSError(f"{self.name(index)}: {error}") from error

    def name(self, index: int) -> str:
        return f"{self.title}, image {index}"


def read_store(data: Data) -> Splits:
    """The splits of the store in `data.path`.

    Raises:
        DataError: where there is no store, or not a whole one, or its images are too small.
    """
    import grain

    root, file = Path(data.path), Path(data.path) / INDEX
    if not data.path or not file.is_file():
        raise DataError(
            f"config.data.path = {data.path!r} holds no {INDEX}: give the folder of a store, or "
            "write one with python -m hpm_jax.data.store --source folder --path IMAGES --out STORE"
        )
    index = json.loads(file.read_text())
    if "splits" not in index:
        raise DataError(
            f"the store {root} is not finished: give the command that writes it once more, and it "
            "goes on where it stopped."
        )
    side = index["plan"]["short_side"]
    if side < min(data.image_size):
        raise DataError(
            f"the images of the store {root} have short sides of {side}, and config.data.image_size "
            f"= {data.image_size} wants more: write a store with --short_side={min(data.image_size)} "
            "or more, or train on the original images."
        )

    def split(name: str) -> StoredImages:
        found = index["splits"][name]
        for shard, (_, size) in found["shards"].items():
            there = (root / shard).stat().st_size if (root / shard).is_file() else "no"
            if there != size:
                raise DataError(
                    f"{root / shard} has {there} bytes, expected {size}: copy the store again, or "
                    "write it again."
                )
        parts = [f"{root / shard}[0:{count}]" for shard, (count, _) in found["shards"].items()]
        source = grain.sources.ArrayRecordDataSource(parts)
        return StoredImages(source, np.array(found["labels"], np.int32), str(root / name))

    return Splits(split("train"), split("test"), tuple(index["plan"]["classes"]))


# --- writing


class Shard(NamedTuple):
    """The work of one shard."""

    records: Records
    path: Path
    short_side: int
    quality: int


def small_jpeg(image: bytes | np.ndarray, short_side: int, quality: int) -> bytes:
    """A JPEG file whose short side is at most `short_side` pixels.

    Larger images are resized, bicubic and antialiased, and encoded with 4:2:0 chroma; smaller ones
    keep their size, and their bytes where they are JPEG.

    Raises:
        BrokenImage: for bytes that cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        pixels, height, width = with_channels(image, 3), *image.shape[:2]
    else:
        encoded = EncodedImage(image)
        height, width = encoded.height, encoded.width
        needed = MARGIN * short_side
        pixels = encoded.pixels(3, encoded.smallest_scale(height, width, (needed, needed)))
    factor = short_side / min(height, width)
    if factor < 1:
        pixels = resize(pixels, (round(height * factor), round(width * factor)))
    elif isinstance(image, bytes) and image.startswith(b"\xff\xd8"):
        return image
    grey = (pixels == pixels[..., :1]).all()
    pixels, colours = (pixels[..., :1], "GRAY") if grey else (pixels, "RGB")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colours, "420")


def write_shard(shard: Shard) -> dict[str, Any]:
    """Writes a shard unless it is there; says what it holds in a note beside it, written last.

    Returns:
        The note: `labels`, `broken` (names and reasons), and bytes `before` and `after`.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    note = shard.path.with_suffix(".json")
    if note.exists():
        return json.loads(note.read_text())
    labels, broken, before = [], [], 0
    part = shard.path.with_suffix(".part")
    writer = ArrayRecordWriter(str(part), LAYOUT)
    for index in range(len(shard.records)):
        try:
            record = shard.records[index]
            jpeg = small_jpeg(record.image, shard.short_side, shard.quality)
        except (BrokenImage, OSError) as error:
            broken.append(f"{shard.records.name(index)}: {error}")
            continue
        writer.write(jpeg)
        labels.append(record.label)
        before += len(record.image) if isinstance(record.image, bytes) else record.image.nbytes
    writer.close()
    os.replace(part, shard.path)
    after = shard.path.stat().st_size
    found = {"labels": labels, "broken": broken, "before": before, "after": after}
    _replace(note, found)
    return found


def write_store(
    splits: Splits,
    out: Path,
    short_side: int = 256,
    quality: int = 95,
    workers: int = 1,
    shard_images: int = SHARD_IMAGES,
) -> dict[str, Any]:
    """Writes a store, or the shards that one lacks whose writing was interrupted.

    Args:
        splits: of any source of images.
        out: the folder, which is made.
        short_side: of the stored images, in pixels.
        quality: of their JPEG, 1 to 100.
        workers: processes.
        shard_images: images in one file.

    Returns:
        What is in `store.json`.

    Raises:
        DataError: where the folder holds something else, or no image could be read.
    """
    images = {"train": len(splits.train), "test": len(splits.test)}
    plan = {"short_side": short_side, "quality": quality, "shard_images": shard_images}
    plan |= {"images": images, "classes": list(splits.classes)}
    if index := _begin(out, plan):
        return index

    shards: dict[str, list[Shard]] = {}
    for name, records in (("train", splits.train), ("test", splits.test)):
        starts = range(0, len(records), shard_images)
        parts = [np.arange(i, min(i + shard_images, len(records))) for i in starts]
        shards[name] = [
            Shard(
                Subset(records, part),
                out / f"{name}-{number:05}-of-{len(parts):05}.array_record",
                short_side,
                quality,
            )
            for number, part in enumerate(parts)
        ]
    work = [shard for parts in shards.values() for shard in parts]
    for _ in track(_write(work, workers), "shards", len(work)):
        pass

    index = {"plan": plan, "splits": {}, "broken": [], "before": 0}
    for name, parts in shards.items():
        notes = [write_shard(shard) for shard in parts]  # all are there, and only read
        index["splits"][name] = {
            "shards": {
                shard.path.name: (len(note["labels"]), note["after"])
                for shard, note in zip(parts, notes, strict=True)
            },
            "labels": [label for note in notes for label in note["labels"]],
        }
        index["broken"] += [line for note in notes for line in note["broken"]]
        index["before"] += sum(note["before"] for note in notes)
        if not index["splits"][name]["labels"]:
            raise DataError(
                f"none of the {images[name]} images of the {name} split can be read, as in "
                f"{index['broken'][-1]}"
            )
    _replace(out / INDEX, index)
    for shard in work:
        shard.path.with_suffix(".json").unlink()
    return index


def _begin(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Makes the folder, or checks what is there; returns the index of a finished store."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / INDEX).exists():
        if any(out.iterdir()):
            raise DataError(f"{out} holds other files: give a folder that is empty or new.")
        _replace(out / INDEX, {"plan": plan})
    index = json.loads((out / INDEX).read_text())
    differing = [key for key in plan if plan[key] != index["plan"][key]]
    if differing:
        key = differing[0]
        raise DataError(
            f"{out} was begun with {key} = {index['plan'][key]}, and now {key} = {plan[key]}: "
            "give another folder, or remove this one."
        )
    return index if "splits" in index else None


def _write(work: list[Shard], workers: int) -> Iterator[dict[str, Any]]:
    """The notes of all shards, as they are written."""
    if workers == 1:
        yield from map(write_shard, work)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        for future in as_completed([pool.submit(write_shard, shard) for shard in work]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _replace(path: Path, value: Any) -> None:
    """Writes JSON so that the file is whole, or the old one, at any time."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value))
    os.replace(beside, path)
