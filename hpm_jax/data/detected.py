"""Records with their annotated objects: what a detector learns from and is scored by."""

import dataclasses
from typing import Any

from hpm_jax.data.coco import Instances, find_instances, instances_in
from hpm_jax.data.decoding import BrokenImage
from hpm_jax.data.records import DataError, Example, Records
from hpm_jax.data.views import image_size, opened


@dataclasses.dataclass(frozen=True)
class Detected:
    """Records whose examples have the image, opened, and its objects."""

    records: Records
    data: Any  # the option `max_pixels`

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Returns `image` and `instances`.

        Raises:
            DataError: for an image of another size than the annotation file says.
            BrokenImage: for an image that cannot be read.
        """
        images, place = find_instances(self.records, index)
        example = opened(self.records[index], self.data)
        found, wanted = tuple(image_size(example["image"])), tuple(images.sizes[place])
        if found != wanted:
            there, said = (" x ".join(map(str, size)) for size in (found, wanted))
            raise DataError(
                f"{self.name(index)} has {there} pixels (height x width), and {images.file} says "
                f"{said}: correct the file, or give the image that was annotated"
            )
        return {"image": example["image"], "instances": images.instances[place]}

    def name(self, index: int) -> str:
        return self.records.name(index)

    def truth(self, index: int) -> tuple[Instances, tuple[int, int]]:
        """Returns the objects of an image and its size, without reading the image."""
        images, place = find_instances(self.records, index)
        height, width = images.sizes[place]
        return images.instances[place], (int(height), int(width))


def check_masks(records: Detected) -> None:
    """Raises a `DataError` if an object has no mask, although masks are to be learned."""
    missing = sum(one.masks.count(None) for one in instances_in(records.records))
    if missing:
        images, _ = find_instances(records.records, 0)
        total = sum(len(one.masks) for one in instances_in(records.records))
        raise DataError(
            f"{missing} of {total} objects in {images.file} have no mask, which "
            "config.model.masks = True needs: --config.model.masks=False predicts boxes alone"
        )


def check_first(records: Detected, count: int) -> None:
    """Raises a `DataError` if one of the first images does not fit its annotations."""
    for index in range(min(count, len(records))):
        try:
            _ = records[index]
        except (BrokenImage, OSError):
            continue  # the run counts unreadable images
