"""Converts labels of other formats, numbers or names, to indices into a list of classes."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hpm_jax.data.folders import check_classes
from hpm_jax.data.records import DataError
from hpm_jax.text_files import printable


def number_labels(
    values: Iterable[Any], place: str, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels `[N]` as int32 class indices (-1 for None), and the classes.

    Args:
        values: integers or strings; integers are sorted numerically.
        place: name of the data in messages.
        classes: classes of the training data, which test data must use; None to find them.

    Raises:
        DataError: for labels of another type, and for classes that the training data lacks.
    """
    names = [_name(value, place) for value in values]
    found = sorted(set(names) - {""}, key=lambda name: (_number(name), name))
    if classes is None:
        classes = tuple(found)
    else:
        check_classes(place, found, classes)
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number.get(name, -1) for name in names], np.int32), tuple(classes)


def _name(value: Any, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes | str):
        return printable(value).strip()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise DataError(
            f"{place} has the label {value!r}: expected whole numbers or names; name their column "
            "by --config.data.label_key, 'none' for no labels"
        )
    return str(int(value))


def _number(name: str) -> float:
    """Returns a sort key: numbers in numerical order, before names."""
    return int(name) if name.lstrip("-").isdecimal() else float("inf")


def check_count(labels: int, images: int, place: str) -> None:
    """Raises a `DataError` if the numbers of labels and images differ."""
    if labels != images:
        raise DataError(
            f"{place} has {labels} labels and {images} images: give one label for each image, or "
            "leave the labels out by --config.data.label_key=none"
        )
