"""Data for scoring a classifier: a test split, or a whole folder of images or videos."""

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
from hpm_jax.text_files import NOTE_BYTES, printable, read_text

if TYPE_CHECKING:
    from hpm_jax.config import Data

FOLDERS = {"folder": ("images", IMAGE_ENDINGS), "video_folder": ("videos", VIDEO_ENDINGS)}


def scored_split(data: "Data", split: str) -> tuple[Records, tuple[str, ...]]:
    """Returns the records to score, and the names of the classes of their labels.

    Args:
        split: "test" is the test split of the source, as in training. "any" needs no training
            data: it is the test folder or test list below `data.path`, or all of a folder without
            training data.

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
    """Reads the names of a model's classes, in its order.

    Args:
        place: a text file, of which the first word of each line is used; `classes.json` of a
            fine-tuning run; or a folder of class folders, in the order of their names.

    Raises:
        DataError: if there are no names, or a name occurs twice.
    """
    path = Path(place)
    if path.is_dir():
        names = sorted(printable(entry.name) for entry in path.iterdir() if entry.is_dir())
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
    text = printable(read_text(path, NOTE_BYTES, DataError))
    if path.suffix == ".json":
        try:
            names = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): copy it again") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path} is no list of names, as classes.json of a run is")
        return names
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def places_in_model(
    found: Sequence[str], classes: int, names: Sequence[str] | None, place: str
) -> np.ndarray:
    """Returns the model output of each class of the data, int32 `[len(found)]`.

    Args:
        found: the classes of the data, in the order of its labels.
        classes: number of classes of the model.
        names: names of the model's classes in order; None if unknown. Then data with as many
            classes is assumed to have the same, and numbers below `classes` are indices.
        place: name of the data in messages.

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
