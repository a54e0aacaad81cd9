"""Loads and checks the data of a task before anything else."""

import dataclasses
from typing import Any

import numpy as np

from hpm_jax.config.shared import ScoredData
from hpm_jax.data.decoding import BrokenImage, OtherKind
from hpm_jax.data.sources import SOURCES, DataError, Example, Records, Splits, known_labels
from hpm_jax.data.views import test_view

LOOKED_AT = 3  # number of images checked before a run starts


def load_data(config: Any) -> Splits:
    """Loads the splits of a config's source.

    Raises:
        DataError: if there are fewer images than one batch needs, or the channels or dtype of the
            first images differ from the config.
    """
    splits = SOURCES[config.data.source](config.data)
    check_kind(splits.train, config.data)
    if len(splits.train) < config.optimizer.batch_size:
        raise DataError(
            f"{len(splits.train)} training images are fewer than one batch: set "
            f"--config.optimizer.batch_size={len(splits.train)} or less, or add images."
        )
    return splits


def scored_split(trained: Any, chosen: ScoredData) -> Any:
    """Returns the data options of a finished run, for the split or folder that is to be scored.

    Args:
        trained: those of the run.
        chosen: an empty one is as in the run.
    """
    changes = {name: value for name, value in vars(chosen).items() if value}
    data = dataclasses.replace(trained, **changes)
    return dataclasses.replace(data, train_split=data.test_split)  # there may be no other


def spread(count: int, pictures: int) -> np.ndarray:
    """Returns the indices of `pictures` images, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, pictures)).round().astype(int))


def check_kind(records: Records, data: Any) -> None:
    """Raises a `DataError` if channels or dtype of one of the first images differ from `data`.

    Unreadable images are ignored here; the run counts them.
    """
    view = test_view(data)
    for index in range(min(LOOKED_AT, len(records))):
        try:
            view(records[index])
        except OtherKind as error:
            raise DataError(f"{records.name(index)}: {error}") from error
        except (BrokenImage, OSError):
            continue


def check_many_labels(splits: Splits) -> None:
    """Raises a `DataError` if the images cannot have several classes, or there are none."""
    for name, records in (("training", splits.train), ("test", splits.test)):
        found = np.shape(_first_example(records).get("labels", ()))
        if not splits.classes or found != (len(splits.classes),):
            raise DataError(
                f"config.labels = 'many', and the {name} images have no lists of classes: give "
                'lists with a line "path,class;class" for each image by '
                "--config.data.source=multi_label, or set config.labels = 'one'"
            )


def _first_example(records: Records) -> Example:
    """Returns the first of the first examples that can be read; {} if none can."""
    for index in range(min(LOOKED_AT, len(records))):
        try:
            return records[index]
        except (BrokenImage, OSError):
            continue
    return {}


def check_labels(splits: Splits) -> None:
    """Raises a `DataError` if there are no labels, or no test images."""
    if "labels" in _first_example(splits.train):
        raise DataError(
            "the training images may have several classes each: fine-tuning takes them by "
            "--config.labels=many, and other tasks need one class of each image"
        )
    if len(splits.classes) < 2:
        found = f"one class, {splits.classes[0]!r}" if splits.classes else "no labels"
        raise DataError(
            f"the training images have {found}, and telling classes apart needs two: put the "
            "images into folders named after their classes, as in train/cat/1.jpg."
        )
    for name, records in (("training", splits.train), ("test", splits.test)):
        labels = known_labels(records)
        if (
            labels is None
        ):  # reading all would take too long; the first shows whether there are labels
            labels = np.array([records[0].get("label", -1)])
        bad = np.flatnonzero((labels < 0) | (labels >= len(splits.classes)))
        if len(bad):
            label = int(labels[bad[0]])
            what = "has no label" if label < 0 else f"has the label {label}"
            raise DataError(
                f"{records.name(int(bad[0]))} of the {name} split {what}: expected one of the "
                f"{len(splits.classes)} classes of the training data, 0 to "
                f"{len(splits.classes) - 1}."
            )
