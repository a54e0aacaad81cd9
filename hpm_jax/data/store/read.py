"""Reads a store: any image of it, in any order, in any process."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
import numpy as np

from hpm_jax.data.records import DataError, Example, Splits
from hpm_jax.data.store import INDEX

if TYPE_CHECKING:
    from hpm_jax.config import Data


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """A split of a store; each process opens a shard when it first reads from it."""

    source: Any  # grain.sources.ArrayRecordDataSource
    labels: np.ndarray  # int32
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        try:
            return {"image": self.source[index], "label": int(self.labels[index])}
        except RuntimeError as error:  # array_record's, where a checksum does not fit
            raise OSError(f"{self.name(index)}: {error}") from error

    def name(self, index: int) -> str:
        return f"{self.title}, image {index}"


def read_store(data: "Data") -> Splits:
    """The splits of the store in `data.path`.

    Raises:
        DataError: where there is no store, or not a whole one, or its images are too small.
    """
    root = Path(data.path)
    if not data.path or not (root / INDEX).is_file():
        raise DataError(
            f"config.data.path = {data.path!r} is no store, which has a {INDEX}: give the folder "
            "of one, or write one with python -m hpm_jax.data.store --source folder --path IMAGES "
            "--out STORE"
        )
    index = json.loads((root / INDEX).read_text())
    if "splits" not in index:
        raise DataError(
            f"the store {root} is not finished: run the command that writes it once more, and it "
            "goes on where it stopped."
        )
    short_side, least = index["plan"]["short_side"], min(data.image_size)
    if short_side < least:
        raise DataError(
            f"the images of the store {root} have short sides of {short_side} or less, and "
            f"config.data.image_size = {data.image_size}: write a store with --short_side={least} "
            "or more, or train on the originals."
        )
    train, test = (_split(root, name, index["splits"][name]) for name in ("train", "test"))
    return Splits(train, test, tuple(index["plan"]["classes"]))


def _split(root: Path, name: str, found: dict[str, Any]) -> StoredImages:
    for shard, (_, expected) in found["shards"].items():
        path = root / shard
        size = path.stat().st_size if path.is_file() else "no"
        if size != expected:
            raise DataError(
                f"{path} has {size} bytes, expected {expected}: copy the store once more, or "
                "write it anew."
            )
    # counts spare opening every shard to ask for them
    parts = [f"{root / shard}[0:{count}]" for shard, (count, _) in found["shards"].items()]
    source = grain.sources.ArrayRecordDataSource(parts)
    return StoredImages(source, np.array(found["labels"], np.int32), str(root / name))
