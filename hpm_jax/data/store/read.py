"""Reads a store: any image of it, in any order, in any process."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
import numpy as np

from hpm_jax.data.records import DataError, Example, Splits
from hpm_jax.data.store import INDEX
from hpm_jax.text_files import LIST_BYTES, check_size, parse_json

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
        except RuntimeError as error:  # array_record's error for a wrong checksum
            raise OSError(f"{self.name(index)}: {error}") from error

    def name(self, index: int) -> str:
        return f"{self.title}, image {index}"


def read_store(data: "Data") -> Splits:
    """Loads the splits of the store in `data.path`.

    Raises:
        DataError: if there is no store, it is incomplete, its index is damaged, or its images are
            too small.
    """
    root = Path(data.path)
    if not data.path or not (root / INDEX).is_file():
        raise DataError(
            f"config.data.path = {data.path!r} is no store, which has a {INDEX}: give the folder "
            "of one, or write one with python -m hpm_jax.data.store --source folder --path IMAGES "
            "--out STORE"
        )
    index = _read_index(root / INDEX)
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


def _read_index(path: Path) -> dict[str, Any]:
    """Reads and checks `store.json`, which may be truncated or edited."""
    check_size(path, LIST_BYTES, DataError)
    index = parse_json(path.read_bytes(), str(path), DataError, "copy the store once more")
    try:
        plan, splits = index["plan"], index.get("splits", {})
        whole = isinstance(plan["short_side"], int) and all(
            isinstance(name, str) for name in plan["classes"]
        )
        for name in ("train", "test") if splits else ():
            shards, labels = splits[name]["shards"], splits[name]["labels"]
            counts = [count for count, _ in shards.values()]
            whole &= all(type(n) is int and n >= 0 for pair in shards.values() for n in pair)
            whole &= len(shards) > 0 and sum(counts) == len(labels)
            whole &= all(type(label) is int and -1 <= label < 2**31 for label in labels)
            whole &= not any({"..", ""} & set(Path(shard).parts or ("",)) for shard in shards)
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f"{path} is no whole index of a store: copy the store once more")
    return index


def _split(root: Path, name: str, found: dict[str, Any]) -> StoredImages:
    for shard, (_, expected) in found["shards"].items():
        path = root / shard
        size = path.stat().st_size if path.is_file() else "no"
        if size != expected:
            raise DataError(
                f"{path} has {size} bytes, expected {expected}: copy the store once more, or "
                "write it anew."
            )
    # known counts avoid opening every shard
    parts = [f"{root / shard}[0:{count}]" for shard, (count, _) in found["shards"].items()]
    source = grain.sources.ArrayRecordDataSource(parts)
    return StoredImages(source, np.array(found["labels"], np.int32), str(root / name))
