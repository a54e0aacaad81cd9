"""The data that a task needs, or an error before anything else is done."""

from typing import Any

import numpy as np

from hpm_jax.data.sources import SOURCES, DataError, Splits, known_labels


def load_data(config: Any) -> Splits:
    """The splits of a config's source.

    Raises:
        DataError: where there are fewer images than one batch needs.
    """
    splits = SOURCES[config.data.source](config.data)
    if len(splits.train) < config.optimizer.batch_size:
        raise DataError(
            f"{len(splits.train)} training images are fewer than one batch: set "
            f"--config.optimizer.batch_size={len(splits.train)} or less, or add images."
        )
    return splits


def check_labels(splits: Splits) -> None:
    """Raises a `DataError` where there is nothing to classify, or nothing to measure it by."""
    if len(splits.classes) < 2:
        found = f"one class, {splits.classes[0]!r}" if splits.classes else "no labels"
        raise DataError(
            f"the training images have {found}, and telling classes apart needs two: put the "
            "images into folders named after their classes, as in train/cat/1.jpg."
        )
    for name, records in (("training", splits.train), ("test", splits.test)):
        labels = known_labels(records)
        if labels is None:  # reading them all would take too long: one tells whether there are any
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
