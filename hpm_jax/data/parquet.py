"""Reads Parquet files with a column of encoded images, row group by row group."""

import dataclasses
import functools
import glob
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.decoding import BrokenImage, TooLarge
from hpm_jax.data.folders import Files, is_of_split, test_names
from hpm_jax.data.labels import number_labels
from hpm_jax.data.records import DataError, Example, Records, Splits, read_splits
from hpm_jax.extras import import_extra
from hpm_jax.text_files import check_size

if TYPE_CHECKING:
    from hpm_jax.config import Data

CACHED = 8  # row groups that each process keeps
IMAGE_COLUMNS = ("image", "img", "images", "picture", "jpg", "jpeg", "png", "bytes", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target", "y", "category")


@functools.lru_cache(maxsize=CACHED)
def row_group(path: str, group: int, column: str) -> Any:
    """Returns one column of a row group, an Arrow array; the file is closed again."""
    pq = import_extra("pyarrow.parquet", "parquet", "config.data.source = 'parquet'")
    from pyarrow.lib import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, [column]).column(0).combine_chunks()
    except ArrowException as error:
        raise OSError(f"{path}, row group {group}: {error}") from error


@dataclasses.dataclass(frozen=True)
class ParquetImages:
    """The images of Parquet files, row by row."""

    paths: tuple[str, ...]
    files: np.ndarray  # int32, the file of each row group
    groups: np.ndarray  # int32, the index of each row group in its file
    starts: np.ndarray  # int64, the first row of each row group, and the number of all rows
    column: str
    labels: np.ndarray  # int32

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        file, group, row = self._place(index)
        value = row_group(self.paths[file], group, self.column)[row].as_py()
        return {"image": _encoded(value, self.paths[file]), "label": int(self.labels[index])}

    def _place(self, index: int) -> tuple[int, int, int]:
        """Returns file, row group and row in it."""
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return int(self.files[part]), int(self.groups[part]), int(index - self.starts[part])

    def name(self, index: int) -> str:
        file, group, row = self._place(index)
        before = self.starts[: len(self.files)][(self.files == file) & (self.groups == 0)]
        return f"{self.paths[file]}, row {int(index - before[0])} (row group {group}, {row})"

    def identity(self) -> bytes:
        """Returns names and sizes of the files, and the rows of their groups."""
        digest = hashlib.sha256(np.ascontiguousarray(self.starts, "<i8").tobytes())
        for path in map(Path, self.paths):
            digest.update(f"{path.name} {path.stat().st_size}\0".encode())
        return digest.digest()


def parquet(data: "Data") -> Splits:
    """Loads `path/train*.parquet` and `path/test*.parquet`, folders of such files, or one file.

    Raises:
        DataError: if there are none, or they have no column of encoded images.
    """
    train_files, test_files = find_parquet(data)
    read = functools.partial(read_parquet, data)
    return read_splits(read, train_files, test_files, data.holdout)


def find_parquet(data: "Data") -> tuple[list[str], list[str]]:
    """Returns the training files and the test files; there may be no test files."""
    root = Path(data.path)
    if data.path and any(mark in data.path for mark in "*?["):
        files = sorted(glob.glob(data.path))
    else:
        files = [str(root)] if root.is_file() else sorted(map(str, root.rglob("*.parquet")))
    if not data.path or not files:
        raise DataError(
            f"config.data.path = {data.path!r} holds no .parquet files: give a file, a folder or a "
            "pattern, as in --config.data.path=/data/parquet"
        )

    def of(names: tuple[str, ...]) -> list[str]:
        """Returns files whose name starts with one of the names, or that are in such a folder."""
        for name in names:
            found = [file for file in files if is_of_split(Path(file), root, name)]
            if found and len(found) < len(files):
                return found
        return []

    test = of(test_names(data))
    train = of((data.train_split,)) or [file for file in files if file not in test]
    return train, test


def read_parquet(
    data: "Data", paths: list[str], classes: tuple[str, ...] | None
) -> tuple[Records, tuple[str, ...]]:
    """Returns the images of some files and their classes."""
    pq = import_extra("pyarrow.parquet", "parquet", "config.data.source = 'parquet'")
    from pyarrow.lib import ArrowException

    files, groups, counts, values = [], [], [], []
    column, key, names = "", None, None
    for number, path in enumerate(paths):
        try:
            with pq.ParquetFile(path) as file:
                if not column:
                    column = find_image_column(file.schema_arrow, data.image_key, path)
                    key = find_label_column(file.schema_arrow, data.label_key, path)
                    names = class_label_names(file.schema_arrow, key)
                if key is not None:
                    values += file.read([key]).column(0).to_pylist()
                for group in range(file.num_row_groups):
                    files.append(number)
                    groups.append(group)
                    counts.append(file.metadata.row_group(group).num_rows)
        except (ArrowException, KeyError) as error:
            raise DataError(f"{path} is no whole Parquet file ({error}): copy it again") from error
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    if names is not None and key is not None:  # Hugging Face stores the names of its numbers
        values = [names[value] if value is not None and value >= 0 else None for value in values]
        classes = classes or names
    if key is None:
        labels, classes = np.full(int(starts[-1]), -1, np.int32), ()
    else:
        labels, classes = number_labels(values, f"{paths[0]}, column {key!r}", classes)
    records = ParquetImages(
        tuple(paths), np.array(files, np.int32), np.array(groups, np.int32), starts, column, labels
    )
    return records, classes


def find_image_column(schema: Any, given: str, path: str) -> str:
    """Returns the column of encoded images: bytes, or a struct that has `bytes`.

    Raises:
        DataError: if there is none; the message lists the columns.
    """
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    if given in fitting:
        return given
    named = [name for name in IMAGE_COLUMNS if name in fitting]
    if not given and fitting:
        return (named or fitting)[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    what = f"no column {given!r} of encoded images" if given else "no column of encoded images"
    raise DataError(
        f"{path} has {what}, bytes or a struct with bytes, but {columns}: name it by "
        "--config.data.image_key, or take another source"
    )


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        places = [kind.get_field_index(name) for name in ("bytes", "path")]
        return places[0] >= 0 and _holds_bytes(kind.field(places[0]).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def find_label_column(schema: Any, given: str, path: str) -> str | None:
    """Returns the column of labels, integers or strings; None without one."""
    if given == "none":
        return None
    if given and given not in schema.names:
        raise DataError(
            f"{path} has no column {given!r} (config.data.label_key), but {', '.join(schema.names)}"
        )
    return given or next((name for name in LABEL_COLUMNS if name in schema.names), None)


def class_label_names(schema: Any, key: str | None) -> tuple[str, ...] | None:
    """Returns the names of a `ClassLabel` that Hugging Face's `datasets` stores in the schema."""
    note = (schema.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(note or b"")["info"]["features"][key]
        return tuple(feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (TypeError, KeyError, ValueError):
        return None


def _encoded(value: Any, path: str) -> bytes:
    """Returns the bytes of an image, or of the file that a struct names."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            file = Path(path).parent / value["path"]
            check_size(file, Files.largest, TooLarge)
            return file.read_bytes()
        value = value.get("bytes")
    if value is None:
        raise BrokenImage("no image in this row")
    return value
