"""Reads lists of images, one line "path label" each, as HPM's train.txt and val.txt."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpm_jax.data.folders import Files, test_names
from hpm_jax.data.records import DataError, Splits, read_splits
from hpm_jax.text_files import LIST_BYTES, printable, read_text

if TYPE_CHECKING:
    from hpm_jax.config import Data


def image_list(data: "Data") -> Splits:
    """Loads lists of images: `path/train.txt` and `path/val.txt` or `path/test.txt`.

    The lists are named after `data.train_split` and `data.test_split`; without a test list, a
    fraction of the images is held out. Paths are absolute, or relative to the folder with the
    list's name (HPM, util/datasets.py: `train/` for train.txt), or else to `path`. Labels are
    numbers from 0, or absent from all lines; the labels of the training list are the classes.

    Raises:
        DataError: for an invalid line; the message names it.
    """
    root = Path(data.path)
    train_path = root / f"{data.train_split}.txt"
    if not data.path or not train_path.is_file():
        raise DataError(
            f"config.data.path = {data.path!r} holds no {train_path.name}: give the folder of the "
            'lists, with a line "path label" for each image, as in --config.data.path=/data/images'
        )
    return read_splits(read_image_list, train_path, find_test_list(data), data.holdout)


def find_test_list(data: "Data") -> Path | None:
    """Returns the list of test images, if there is one."""
    paths = [Path(data.path) / f"{name}.txt" for name in test_names(data)]
    return next((path for path in paths if path.is_file()), None)


def read_image_list(
    path: Path, classes: tuple[str, ...] | None = None
) -> tuple[Files, tuple[str, ...]]:
    """Returns the images of a list and its classes: numbers in ascending order.

    Args:
        classes: classes of the training list, which a test list must use; None to find them.
    """
    lines = read_text(path, LIST_BYTES, DataError).splitlines()
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f'{path} names no images: expected a line "path label" for each')
    folder = path.parent / path.stem
    root = folder if folder.is_dir() else path.parent
    labelled = any(re.search(r"\s\d+$", line) for _, line in numbered)
    there, known = _Listing(root), None if classes is None else set(classes)
    places: dict[str, int] = {}  # of the images, by line
    labels = []
    for number, line in numbered:
        where = f"{path}, line {number}"
        image, label = _split(where, line, labelled)
        if image in places:
            raise DataError(
                f"{where}: {printable(image)} is there twice, first in line {places[image]}"
            )
        if not there.has(image):
            raise DataError(f"{where}: there is no {printable(str(root / image))}")
        if known is not None and label and label not in known:
            raise DataError(f"{where}: the training list has no label {label}")
        places[image] = number
        labels.append(label)
    if classes is None:
        classes = tuple(sorted(set(labels) - {""}, key=int))
    index = {name: number for number, name in enumerate(classes)}
    found = np.array([index.get(label, -1) for label in labels], np.int32)
    return Files(str(root), np.array([os.fsencode(image) for image in places]), found), classes


def _split(where: str, line: str, labelled: bool) -> tuple[str, str]:
    """Splits a line into path and label, "" in a list without labels."""
    if not labelled:
        return line, ""
    image, *label = line.rsplit(maxsplit=1)
    if not label or not re.fullmatch(r"\d+", label[0]):
        raise DataError(f"{where}: {line!r} has no label, a number from 0 behind the path")
    return image, str(int(label[0]))


class _Listing:
    """Tests which files exist by listing each folder once instead of checking each file."""

    def __init__(self, root: Path):
        self.root = root
        self.folders: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        """Whether there is a file at `path`, absolute or relative to the root."""
        folder, name = os.path.split(path)
        if folder not in self.folders:
            place = os.path.join(self.root, folder)
            self.folders[folder] = set(os.listdir(place)) if os.path.isdir(place) else set()
        return name in self.folders[folder]
