"""Records with random access: the interface of all sources of images and videos."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from hpm_jax.errors import UserError

Place = TypeVar("Place")
Classes = tuple[str, ...]


class DataError(UserError, ValueError):
    """Unusable data; the message names the place and the remedy."""


# One image or video, stored or under a view, with its annotations:
#   image      an encoded file, or numbers [h, w, channels], or of a video [t, h, w, channels]:
#              uint8, or any other dtype with config.data.value_range
#   label      of the whole example, -1 without labels
#   labels     uint8 [classes], 1 for each class of an example that may have several
#   label_map  integers [h, w], of a video [t, h, w]; or an encoded file
#   boxes      [N, 4] of (left, top, right, bottom) in pixels, of a video [t, N, 4]; N is the same
#              in every example, and missing boxes are four zeros
# Other keys are arrays that views do not change.
Example = dict[str, Any]


class Records(Protocol):
    """Records by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """Returns the name of a record in messages: its path, or its place in the data set.

        Records that can change under the same names may also have a method `identity() -> bytes`;
        the fingerprint of a run's data then uses it in place of names.
        """
        ...


class Splits(NamedTuple):
    """The training and test records of a run, and the names of the classes."""

    train: Records
    test: Records
    classes: tuple[str, ...]  # names of the labels; empty without labels


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images in memory, or videos."""

    images: np.ndarray  # [N, h, w, channels] or [N, t, h, w, channels]
    labels: np.ndarray  # int [N]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return f"image {index}"


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some of the records of another source."""

    records: Records
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.records[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.records.name(int(self.indices[index]))


def known_labels(records: Records) -> np.ndarray | None:
    """Returns the labels `[N]` of records that hold them in memory; None if they must be read."""
    if isinstance(records, Subset):
        labels = known_labels(records.records)
        return None if labels is None else labels[records.indices]
    return getattr(records, "labels", None)


def set_apart(examples: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(examples)` at random into the rest and `count` of them, both sorted."""
    order = np.random.default_rng(seed).permutation(examples)
    return np.sort(order[count:]), np.sort(order[:count])


def hold_out(
    records: Records, share: float, option: str = "config.data.holdout"
) -> tuple[Records, Records]:
    """Holds out a fixed fraction for testing: the same images for every seed and every run.

    `option` is the name of the fraction in messages.
    """
    count = round(share * len(records))
    if not 0 < count < len(records):
        raise DataError(
            f"{len(records)} examples cannot be split with {option} = {share}: "
            "raise it, add some, or give a test split of their own."
        )
    rest, apart = set_apart(len(records), count)
    return Subset(records, rest), Subset(records, apart)


def read_splits(
    read: Callable[[Place, Classes | None], tuple[Records, Classes]],
    train: Place,
    test: Place | None,
    holdout: float,
) -> Splits:
    """Reads both splits, or holds out a part of the training split if there is no test split.

    Args:
        read: from a place and the classes that it may have, None for any, to records and classes.
        test: its place; None or empty if there is none.
    """
    records, classes = read(train, None)
    if not test:
        return Splits(*hold_out(records, holdout), classes)
    return Splits(records, read(test, classes)[0], classes)
