"""Records with random access, what every source of images or videos is a list of."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np

from hpm_jax.errors import UserError


class DataError(UserError, ValueError):
    """Data that cannot be trained on; the message names the place and the remedy."""


# One image or video, as it is stored or as it is seen, with what is known of it:
#   image      an encoded file, or uint8 [h, w, channels], or of a video [t, h, w, channels]
#   label      of the whole, -1 without labels
#   label_map  whole numbers [h, w], of a video [t, h, w]; or an encoded file
#   boxes      [N, 4] of (left, top, right, bottom) in pixels, of a video [t, N, 4]; N is the same
#              in every example, and boxes that are not there are four zeros
# Other keys are arrays that no view changes.
Example = dict[str, Any]


class Records(Protocol):
    """Records by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """What a message calls the record: its path, or its place in the data set."""
        ...


class Splits(NamedTuple):
    """What a run trains on and what it is measured on."""

    train: Records
    test: Records
    classes: tuple[str, ...]  # names of the labels; empty without labels


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images in memory, or videos."""

    images: np.ndarray  # uint8 [N, h, w, channels] or [N, t, h, w, channels]
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
    """The labels `[N]` of records that have them at hand; None where each must be read."""
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
    """Splits off a fixed share for testing: the same images for every seed and every run.

    `option` is what a message calls the share.
    """
    count = round(share * len(records))
    if not 0 < count < len(records):
        raise DataError(
            f"{len(records)} examples cannot be split with {option} = {share}: "
            "raise it, add some, or give a test split of their own."
        )
    rest, apart = set_apart(len(records), count)
    return Subset(records, rest), Subset(records, apart)
