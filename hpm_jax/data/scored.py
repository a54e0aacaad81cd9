"""The images or videos that a classifier is scored on: a test split, or all that a folder holds."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpm_jax.data.folders import scan_folder, test_names
from hpm_jax.data.lists import find_test_list, read_image_list
from hpm_jax.data.records import DataError, Records
from hpm_jax.data.sources import IMAGE_ENDINGS, SOURCES
from hpm_jax.data.video_sources import VIDEO_ENDINGS, list_records

if TYPE_CHECKING:
    from hpm_jax.config import Data

FOLDERS = {"folder": ("images", IMAGE_ENDINGS), "video_folder": ("videos", VIDEO_ENDINGS)}


def scored_split(data: "Data", split: str) -> tuple[Records, tuple[str, ...]]:
    """The records to be scored, and the names of the classes that their labels count.

    Args:
        split: "test" is the test split of the source, as training has it. "any" needs no training
            data: it is the test folder or test list below `data.path`, or else, in a folder without
            training data, all that it holds.

    Raises:
        DataError: as the source does.
    """
    root = Path(data.path)
    if split == "any" and data.path and data.source in FOLDERS:
        test = next((root / name for name in test_names(data) if (root / name).is_dir()), root)
        if test != root or not (root / data.train_split).is_dir():
            return scan_folder(test, None, *FOLDERS[data.source])
    if split == "any" and data.path and data.source == "video_csv":
        lists = [root / f"{name}.csv" for name in test_names(data)]
        if found := [path for path in lists if path.is_file()]:
            return list_records(found[0])
    if (
        split == "any"
        and data.path
        and data.source == "list"
        and (test_list := find_test_list(data))
    ):
        return read_image_list(test_list)
    splits = SOURCES[data.source](data)
    return splits.test, splits.classes


def read_class_names(place: str | Path) -> tuple[str, ...]:
    """The names of a model's classes, in its order.

    Args:
        place: a text file, of which the first word of each line counts; `classes.json` of a
            fine-tuning run; or a folder of class folders, in the order of their names.

    Raises:
        DataError: where there are none, or one stands there twice.
    """
    path = Path(place)
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    elif path.is_file():
        names = _read_names(path)
    else:
        raise DataError(f"config.classes = {str(place)!r} is neither a file nor a folder")
    if not names:
        raise DataError(f"config.classes = {str(place)!r} names no classes")
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise DataError(f"config.classes = {str(place)!r} has the class {twice!r} twice")
    return tuple(names)


def _read_names(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        names = json.loads(text)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path} is no list of names, as classes.json of a run is")
        return names
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def places_in_model(
    found: Sequence[str], classes: int, names: Sequence[str] | None, place: str
) -> np.ndarray:
    """Which output of the model each class of the data is: int32, one for each of `found`.

    Args:
        found: the classes of the data, in the order of its labels.
        classes: how many the model has.
        names: those of the model, in its order; None where unknown. Then classes of the data that
            are as many are taken as the same, and numbers below `classes` as places.
        place: what a message calls the data.

    Raises:
        DataError: for a class that the model does not have.
    """
    if names is not None:
        if len(names) != classes:
            raise DataError(
                f"config.classes names {len(names)} classes, and the model has {classes}"
            )
        number = {name: index for index, name in enumerate(names)}
        if unknown := [name for name in found if name not in number]:
            raise DataError(
                f"{place} has {len(unknown)} classes that are not among the model's {classes}, "
                f"such as {unknown[0]!r}: rename or remove them, or correct config.classes"
            )
        return np.array([number[name] for name in found], np.int32)
    if len(found) == classes:
        return np.arange(classes, dtype=np.int32)
    if all(re.fullmatch(r"\d+", name) and int(name) < classes for name in found):
        return np.array([int(name) for name in found], np.int32)
    raise DataError(
        f"{place} has {len(found)} classes, and the model {classes}: name the model's, in its "
        "order, by --config.classes=FILE, or by the folder of all its classes"
    )
