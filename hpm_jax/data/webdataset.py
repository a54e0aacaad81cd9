"""Reads WebDataset: images in tar files, by an index of their offsets."""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.folders import is_of_split, test_names
from hpm_jax.data.labels import number_labels
from hpm_jax.data.records import DataError, Example, Records, Splits, read_splits
from hpm_jax.data.tar_index import Sample, find_shards, read_index

if TYPE_CHECKING:
    from hpm_jax.config import Data


@dataclasses.dataclass(frozen=True)
class TarImages:
    """Images inside tar files, each read by one seek."""

    shards: tuple[str, ...]
    shard: np.ndarray  # int32, shard of each image
    offset: np.ndarray  # int64, offset of its first byte
    size: np.ndarray  # int64
    keys: np.ndarray  # bytes, the name without its ending
    labels: np.ndarray  # int32

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        with open(self.shards[self.shard[index]], "rb") as file:
            file.seek(int(self.offset[index]))
            image = file.read(int(self.size[index]))
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        key = self.keys[index].decode("utf-8", "backslashreplace")
        return f"{self.shards[self.shard[index]]}, {key}"

    def identity(self) -> bytes:
        """Returns offsets and names of the images; the folder may move."""
        names = "\0".join(Path(shard).name for shard in self.shards)
        digest = hashlib.sha256(names.encode(errors="surrogateescape"))
        for array in (self.shard, self.offset, self.size):
            digest.update(array.astype("<i8").tobytes())
        digest.update(b"\0".join(self.keys.tolist()))
        return digest.digest()


def webdataset(data: "Data") -> Splits:
    """Loads tar files: `path/train/*.tar` and `path/test/*.tar`, `train*.tar`, or a pattern.

    A pattern may have braces, as in `/data/train-{000000..000146}.tar`; `data.test_split` may also
    be a pattern. Labels come from `.cls` or, with `data.label_key`, from `.json`.

    Raises:
        DataError: for missing or truncated shards, and shards without images.
    """
    train_shards, test_shards = _find(data)
    read = functools.partial(_read, data)
    return read_splits(read, train_shards, test_shards, data.holdout)


def _find(data: "Data") -> tuple[list[str], list[str]]:
    """Returns training and test shards; there may be no test shards."""
    root = Path(data.path)
    test: list[str] = []
    if data.test_split.endswith(".tar"):
        test = find_shards(data.test_split)
    if not root.is_dir():
        return find_shards(data.path), test
    for name in () if test else test_names(data):
        test = [str(path) for path in sorted(root.rglob("*.tar")) if is_of_split(path, root, name)]
        if test:
            break
    shards = [str(path) for path in sorted(root.rglob("*.tar"))]
    train = [path for path in shards if is_of_split(Path(path), root, data.train_split)]
    train = train or [path for path in shards if path not in test]
    if not train:
        raise DataError(
            f"config.data.path = {data.path!r} holds no .tar files to train on: give a folder of "
            "shards or a pattern, as in --config.data.path='/data/train-{000000..000146}.tar'"
        )
    return train, test


def _read(
    data: "Data", shards: list[str], classes: tuple[str, ...] | None
) -> tuple[Records, tuple[str, ...]]:
    """Returns the images of some shards and their classes."""
    wanted = (data.image_key, data.label_key)
    samples: list[tuple[int, Sample]] = []
    for number, shard in enumerate(shards):
        samples += [(number, sample) for sample in read_index(shard, *wanted)]
    if not samples:
        raise DataError(
            f"{shards[0]} and the other {len(shards) - 1} shards hold no images: expected members "
            "such as 0001.jpg and 0001.cls; config.data.image_key is their ending"
        )
    values: list[Any] = [sample.label for _, sample in samples]
    labelled = sum(value is not None for value in values)
    if 0 < labelled < len(values) and data.label_key != "none":
        bare = next(index for index, value in enumerate(values) if value is None)
        raise DataError(
            f"{len(values)} images and {labelled} labels: {shards[samples[bare][0]]}, "
            f"{samples[bare][1].key} has none. Add it, or leave all out by "
            "--config.data.label_key=none"
        )
    labels, classes = number_labels(values, shards[0], classes if labelled else ())
    records = TarImages(
        tuple(shards),
        np.array([number for number, _ in samples], np.int32),
        np.array([sample.offset for _, sample in samples], np.int64),
        np.array([sample.size for _, sample in samples], np.int64),
        np.array([sample.key.encode(errors="surrogateescape") for _, sample in samples]),
        labels,
    )
    return records, classes
