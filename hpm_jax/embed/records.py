"""Which images or videos are encoded: a folder, a list, one file, or a split of a source."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.fingerprint import fingerprint
from hpm_jax.data.folders import Files, regular_files, scan_folder
from hpm_jax.data.lists import read_image_list
from hpm_jax.data.records import DataError, Example, Records, Splits, Subset
from hpm_jax.data.scored import FOLDERS
from hpm_jax.data.sources import IMAGE_ENDINGS, SOURCES
from hpm_jax.data.video_sources import VIDEO_ENDINGS, list_records
from hpm_jax.errors import check_choice
from hpm_jax.extras import import_extra

if TYPE_CHECKING:
    from hpm_jax.config import Data

SPLITS = ("train", "test", "all")
IMAGES_ALONE = (
    "digits", "folder", "list", "tfds", "store", "hugging_face", "webdataset", "parquet", "numpy",
)  # fmt: skip
VIDEOS_ALONE = ("video_folder", "video_csv", "moving_digits")


@dataclasses.dataclass(frozen=True)
class Joined:
    """The records of two splits, one after the other."""

    first: Records
    second: Records

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Example:
        records, place = self._find(index)
        return records[place]

    def name(self, index: int) -> str:
        records, place = self._find(index)
        return records.name(place)

    def _find(self, index: int) -> tuple[Records, int]:
        first = len(self.first)
        return (self.first, index) if index < first else (self.second, index - first)


def records_to_encode(data: "Data", split: str = "all") -> tuple[Records, tuple[str, ...]]:
    """The records, and the names of the classes that their labels count.

    `data.path` may be a list or a single file too. In a folder without a training split, "all" is
    everything that it holds: loose files have no label, others the class of their folder.

    Raises:
        DataError: as the source does, and for videos where the encoder is of images, or the
            reverse.
    """
    check_choice("config.data.source", data.source, SOURCES)
    check_choice("--split", split, SPLITS)
    _check_kind(data)
    root, video = Path(data.path), data.frames > 1
    if data.path and root.is_file():
        if root.name.lower().endswith(VIDEO_ENDINGS if video else IMAGE_ENDINGS):
            name = np.array([os.fsencode(root.name)])
            return Files(str(root.parent), name, np.array([-1], np.int32)), ()
        return list_records(root) if video else read_image_list(root)
    whole = data.path and root.is_dir() and not (root / data.train_split).is_dir()
    if split == "all" and whole and data.source in FOLDERS:
        what, endings = FOLDERS[data.source]
        return scan_folder(root, None, what, endings, loose=True)
    splits = SOURCES[data.source](data)
    if split != "all":
        return {"train": splits.train, "test": splits.test}[split], splits.classes
    return _whole(splits), splits.classes


def _whole(splits: Splits) -> Records:
    """Both splits; where they are parts of the same records, those in their own order."""
    train, test = splits.train, splits.test
    parts_of_one = isinstance(train, Subset) and isinstance(test, Subset)
    if parts_of_one and train.records is test.records:  # type: ignore[attr-defined]
        return train.records  # type: ignore[attr-defined]
    return Joined(train, test)


def describe_records(records: Records, classes: tuple[str, ...]) -> dict[str, Any]:
    """A count and a digest of names, sizes, labels and classes, to know the same records again."""
    nothing = np.array([], np.int64)
    pair = (
        (records.first, records.second)
        if isinstance(records, Joined)
        else (records, Subset(records, nothing))
    )
    found = json.dumps(fingerprint(Splits(*pair, classes)), sort_keys=True)
    digest = hashlib.sha256(found.encode()).hexdigest()[:16]
    return {"images.count": len(records), "images.digest": digest}


def short_name(records: Records, index: int, path: str) -> str:
    """The name of a record: of a file below the folder `path`, from there."""
    name = records.name(index)
    return name.removeprefix(os.path.join(path, "")) if path else name


def _check_kind(data: "Data") -> None:
    """Raises a `DataError` for images where the encoder is of videos, and the reverse."""
    video = data.frames > 1
    if video and data.source in IMAGES_ALONE:
        raise DataError(
            f"config.data.source = {data.source!r} gives images, and the encoder is of videos "
            f"(clips of {data.frames} frames): give videos, or an encoder of images"
        )
    if not video and data.source in VIDEOS_ALONE:
        raise DataError(
            f"config.data.source = {data.source!r} gives videos, and the encoder is of images: "
            "give images, or an encoder of videos"
        )
    if data.source not in FOLDERS or not data.path:
        return
    if video:
        import_extra("av", "video", f"config.data.source = {data.source!r}")
    what, endings = FOLDERS[data.source]
    other, others = FOLDERS["folder" if video else "video_folder"]
    if not os.path.isdir(data.path):
        name = data.path.lower()
        wrong = name.endswith(others)
    else:
        wrong = not _any(data.path, endings) and _any(data.path, others)
    if wrong:
        raise DataError(
            f"config.data.path = {data.path!r} holds {other}, and the encoder is of {what}"
            f"{f' (clips of {data.frames} frames)' if video else ''}: give {what}, or an encoder "
            f"of {other}"
        )
    if not os.path.exists(data.path):
        raise DataError(
            f"config.data.path = {data.path!r} does not exist: give a folder of {what}, or a list"
        )


def _any(folder: str, endings: tuple[str, ...]) -> bool:
    return next(regular_files(folder, endings), None) is not None
