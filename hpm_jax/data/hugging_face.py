"""Reads data sets of Hugging Face's `datasets`: saved ones, folders of Parquet, and by name."""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.decoding import BrokenImage, TooLarge
from hpm_jax.data.folders import Files, test_names
from hpm_jax.data.labels import number_labels
from hpm_jax.data.parquet import LABEL_COLUMNS, find_parquet
from hpm_jax.data.records import DataError, Example, Records, Splits, read_splits
from hpm_jax.extras import import_extra
from hpm_jax.text_files import check_size

if TYPE_CHECKING:
    from hpm_jax.config import Data

SAVED = ("dataset_dict.json", "state.json", "dataset_info.json")  # files of save_to_disk
SAMPLED = 64  # number of images in a fingerprint


@dataclasses.dataclass(frozen=True)
class HuggingFaceImages:
    """A split whose images are read as encoded files."""

    rows: Any  # datasets.Dataset of the image column alone
    column: str
    labels: np.ndarray  # int32
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        found = self.rows[int(index)][self.column]
        return {"image": self._encoded(found, index), "label": int(self.labels[index])}

    def _encoded(self, found: dict[str, Any] | None, index: int) -> bytes:
        if found and found.get("bytes") is not None:
            return found["bytes"]
        if found and found.get("path"):
            check_size(Path(found["path"]), Files.largest, TooLarge)
            return Path(found["path"]).read_bytes()
        raise BrokenImage(f"{self.name(index)} holds no image")

    def name(self, index: int) -> str:
        return f"{self.title}, row {index}"

    def identity(self) -> bytes:
        """Returns the count and the bytes of some of the images."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in np.linspace(0, len(self) - 1, min(SAMPLED, len(self))).astype(int):
            try:
                digest.update(self[int(index)]["image"])
            except (BrokenImage, OSError):
                digest.update(b"?")
        return digest.digest()


def hugging_face(data: "Data") -> Splits:
    """Loads a data set from `path` (`save_to_disk` or Parquet) or, without a path, by `name`.

    The network is used only if `name` is given and `path` is not.

    Raises:
        DataError: if nothing can be read, or there is no column of images.
    """
    datasets = import_extra("datasets", "hugging_face", "config.data.source = 'hugging_face'")
    datasets.disable_progress_bars()
    try:
        found = _load(datasets, data)
    except DataError:
        raise
    except Exception as error:  # its own, pyarrow's, and those of the network
        place = data.path or data.name
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{place!r} cannot be read by Hugging Face's datasets: {reason}. Check "
            "config.data.path (of save_to_disk, or a folder of Parquet) or config.data.name"
        ) from error
    splits = dict(found) if isinstance(found, dict) else {data.train_split: found}
    title = data.path or data.name
    if data.train_split not in splits:
        raise DataError(
            f"{title} has no split {data.train_split!r} (config.data.train_split), but "
            f"{', '.join(splits)}"
        )
    test = next((name for name in test_names(data) if name in splits), None)

    def read(name: str, classes: tuple[str, ...] | None) -> tuple[Records, tuple[str, ...]]:
        shown = "train" if name == data.train_split else name
        return _split(datasets, splits[name], data, f"{title}/{shown}", classes)

    return read_splits(read, data.train_split, test, data.holdout)


def _load(datasets: Any, data: "Data") -> Any:
    root = Path(data.path)
    if not data.path and not data.name:
        raise DataError(
            "config.data.path and config.data.name are empty: give a folder that save_to_disk "
            "wrote or that holds Parquet, or a name, as in --config.data.name=uoft-cs/cifar10"
        )
    if not data.path:
        return datasets.load_dataset(data.name)
    if any((root / name).is_file() for name in SAVED):
        return datasets.load_from_disk(str(root))
    train, test = find_parquet(data)
    files = {data.train_split: train} | ({data.test_split: test} if test else {})
    return datasets.load_dataset("parquet", data_files=files)


def _split(
    datasets: Any, rows: Any, data: "Data", title: str, classes: tuple[str, ...] | None
) -> tuple[Records, tuple[str, ...]]:
    """Returns the images of one split and its classes."""
    images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    column = data.image_key or (images[0] if images else "")
    if column not in images:
        kinds = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in rows.features.items())
        raise DataError(
            f"{title} has no image column{f' {column!r}' if column else ''}, but {kinds}: name the "
            "column of type Image by --config.data.image_key"
        )
    key = _label_column(datasets, rows.features, data.label_key, title)
    pixels = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if key is None:
        return HuggingFaceImages(pixels, column, np.full(len(rows), -1, np.int32), title), ()
    kind, values = rows.features[key], rows[key][:]
    if isinstance(kind, datasets.ClassLabel):
        names = tuple(kind.names)
        values = [names[value] if value is not None and value >= 0 else None for value in values]
        classes = classes or names
    labels, classes = number_labels(values, f"{title}, column {key!r}", classes)
    return HuggingFaceImages(pixels, column, labels, title), classes


def _label_column(datasets: Any, features: Any, given: str, title: str) -> str | None:
    """Returns the column of labels: of type ClassLabel, else by its name; None without one."""
    if given == "none":
        return None
    if given and given not in features:
        raise DataError(
            f"{title} has no column {given!r} (config.data.label_key), but {', '.join(features)}"
        )
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in LABEL_COLUMNS if name in features]
    return given or next(iter([*typed, *named]), None)
