"""Reads lists of images with any number of classes each, one line "path,class;class"."""

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpm_jax.data.folders import Files, check_classes, digest_of_files, test_names
from hpm_jax.data.records import DataError, Example, Splits, read_splits
from hpm_jax.text_files import LIST_BYTES, printable, read_text

if TYPE_CHECKING:
    from hpm_jax.config import Data


@dataclasses.dataclass(frozen=True)
class ManyLabels:
    """Files whose examples have `labels`, uint8 `[classes]`: 1 for each class of the image."""

    files: Files
    table: np.ndarray  # bool [N, classes]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return self.files[index] | {"labels": self.table[index].astype(np.uint8)}

    def name(self, index: int) -> str:
        return self.files.name(index)

    def identity(self) -> bytes:
        """Names, sizes and classes of the images, for the fingerprint of the data."""
        return digest_of_files(self.files) + np.packbits(self.table).tobytes()


def multi_label(data: "Data") -> Splits:
    """Loads lists of images: `path/train.csv`, and `path/val.csv` or `path/test.csv`.

    Each line has the path of an image, absolute or relative to the list, and its classes, separated
    by semicolons; an image may have none. A first line "path,labels" is left out. Without a test
    list, a fraction of the images is held out.

    Raises:
        DataError: for an invalid line; the message names it.
    """
    root = Path(data.path)
    train_path = root / f"{data.train_split}.csv"
    if not data.path or not train_path.is_file():
        raise DataError(
            f"config.data.path = {data.path!r} holds no {train_path.name}: give the folder of the "
            'lists, with a line "path,class;class" for each image, as in --config.data.path=/data/x'
        )
    tests = [root / f"{name}.csv" for name in test_names(data)]
    test_path = next((path for path in tests if path.is_file()), None)
    return read_splits(read_multi_label, train_path, test_path, data.holdout)


def read_multi_label(
    path: Path, classes: Sequence[str] | None = None
) -> tuple[ManyLabels, tuple[str, ...]]:
    """Returns the images of a list, and its classes in alphabetical order.

    Args:
        classes: classes of the training list, which a test list must use; None to find them.
    """
    rows = list(csv.reader(read_text(path, LIST_BYTES, DataError).splitlines()))
    places: dict[str, int] = {}  # of the images, by line
    named: list[tuple[str, ...]] = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, line {number}"
        row = [part.strip() for part in row]
        if not any(row) or (number == 1 and row[:2] == ["path", "labels"]):
            continue
        if len(row) != 2:
            raise DataError(
                f"{where} has {len(row)} columns: expected two, the path of an image and its "
                "classes, separated by semicolons"
            )
        image, labels = row
        if image in places:
            raise DataError(
                f"{where}: {printable(image)} is there twice, first in line {places[image]}"
            )
        if not (path.parent / image).is_file():
            raise DataError(f"{where}: there is no {printable(str(path.parent / image))}")
        places[image] = number
        named.append(tuple(filter(None, (label.strip() for label in labels.split(";")))))
    if not places:
        raise DataError(f'{path} names no images: expected a line "path,class;class" for each')
    found = sorted({label for labels in named for label in labels})
    if classes is None:
        classes = tuple(found)
    else:
        check_classes(str(path), found, classes)
    index = {name: number for number, name in enumerate(classes)}
    table = np.zeros((len(named), len(classes)), bool)
    for row_of, labels_of in zip(table, named, strict=True):
        row_of[[index[label] for label in labels_of]] = True
    paths = np.array([os.fsencode(image) for image in places])
    none = np.full(len(paths), -1, np.int32)
    return ManyLabels(Files(str(path.parent), paths, none), table), tuple(classes)
