"""Label maps as class indices: what a file may hold, and what is left out of loss and scores."""

import dataclasses
import functools
from typing import Any

import numpy as np

from hpm_jax.data.decoding import BrokenImage, EncodedImage, decode_label_map
from hpm_jax.data.label_maps import label_name
from hpm_jax.data.records import DataError, Example, Records
from hpm_jax.data.views import image_size, opened

IGNORED = -1  # class of pixels that count neither in the loss nor in scores
VALUES = 2**16  # values that a label map can hold
INVALID = -2


@dataclasses.dataclass(frozen=True)
class Segmented:
    """Records whose label maps are checked and hold class indices: int16 `[h, w]`, or `IGNORED`.

    A wrong label map is an error at once: it is never replaced by another image.
    """

    records: Records  # with images and label maps
    data: Any  # the options `ignore_index`, `reduce_zero_label` and `max_pixels`
    classes: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Returns the image, opened, and its label map.

        Raises:
            DataError: for a label map of another size or kind, or with a value that is no class.
            BrokenImage: for an image that cannot be read.
        """
        example = self.records[index]
        if "label_map" not in example:
            raise DataError(
                f"{self.name(index)} has no label map: use --config.data.source=label_maps, with "
                "images/<split>/*.jpg and labels/<split>/*.png"
            )
        label_map = self._decode(example["label_map"], index)
        example = opened(example, self.data)
        size = image_size(example["image"])
        if label_map.shape != tuple(size):
            found, wanted = (" x ".join(map(str, one)) for one in (label_map.shape, size))
            raise DataError(
                f"{label_name(self.records, index)} has {found} pixels (height x width), and its "
                f"image {self.name(index)} has {wanted}: a label map has the size of its image"
            )
        return {"image": example["image"], "label_map": self.indices(label_map, index)}

    def name(self, index: int) -> str:
        return self.records.name(index)

    def _decode(self, stored: bytes | np.ndarray, index: int) -> np.ndarray:
        if not isinstance(stored, bytes):
            return stored
        try:
            return decode_label_map(stored)
        except BrokenImage as error:
            name = label_name(self.records, index)
            raise DataError(
                f"{name} is no label map ({error}): expected a PNG with one class index a pixel, "
                "grey or with a palette"
            ) from None

    def indices(self, label_map: np.ndarray, index: int) -> np.ndarray:
        """Converts the values of a file to class indices, int16 `[h, w]`."""
        bounded = np.clip(label_map, 0, VALUES - 1)
        found = self.table[bounded]
        if found.size and (found.min() == INVALID or (bounded != label_map).any()):
            wrong = (found == INVALID) | (bounded != label_map)
            row, column = (int(place[0]) for place in np.nonzero(wrong))
            low = int(self.data.reduce_zero_label)
            raise DataError(
                f"{label_name(self.records, index)} has the value {label_map[row, column]} in row "
                f"{row}, column {column}: expected {low} to {low + self.classes - 1}, one of the "
                f"{self.classes} classes, or config.data.ignore_index = {self.data.ignore_index}"
                f"{' or 0' if low else ''}"
            )
        return found

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Class index of each value, int16 `[65536]`: `IGNORED`, or `INVALID` for no class."""
        table = np.full(VALUES, INVALID, np.int16)
        first = int(self.data.reduce_zero_label)  # 0 is "other", and class 0 is stored as 1
        table[first : first + self.classes] = np.arange(self.classes)
        table[:first] = IGNORED
        table[self.data.ignore_index] = IGNORED
        return table


def check_ignored(data: Any, classes: tuple[str, ...]) -> None:
    """Raises a `DataError` if the value that is left out is one of the classes."""
    place = data.ignore_index - int(data.reduce_zero_label)
    if 0 <= place < len(classes):
        raise DataError(
            f"config.data.ignore_index = {data.ignore_index} is the class {classes[place]!r} of "
            f"the {len(classes)} classes: give the value of pixels to leave out, often 255, as in "
            "--config.data.ignore_index=255"
        )


def check_first(records: Segmented, count: int) -> None:
    """Raises a `DataError` if one of the first images has a wrong label map."""
    for index in range(min(count, len(records))):
        try:
            example = records[index]
        except (BrokenImage, OSError):
            continue  # the run counts unreadable images
        assert isinstance(example["image"], EncodedImage | np.ndarray)
