"""Images with depth maps: PNG files of 16 bits beside images, in two layouts of NYUv2."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.decoding import BrokenImage, decode_label_map
from hpm_jax.data.folders import regular_files
from hpm_jax.data.label_maps import (
    IMAGE_ENDINGS,
    LabelledImages,
    files_below,
    label_name,
    paired_folders,
)
from hpm_jax.data.records import DataError, Example, Records, Splits, hold_out
from hpm_jax.data.views import image_size, opened
from hpm_jax.text_files import printable

if TYPE_CHECKING:
    from hpm_jax.config import Data

FOLDERS = ("depth", "depths")
COLOR, DEPTHS = "rgb_", ("sync_depth_", "depth_")  # names of NYUv2's files in one folder
EXPECTED = (
    "expected images/<split>/*.jpg and depth/<split>/*.png of the same names, or "
    "<split>/<scene>/rgb_*.jpg beside sync_depth_*.png"
)


@dataclasses.dataclass(frozen=True)
class Depths:
    """Records whose depth maps are checked and hold metres: float32 `[h, w]`, 0 where invalid."""

    records: Records
    data: Any  # the options `unit`, `nearest`, `farthest` and `max_pixels`

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Returns the image, opened, and its depth.

        Pixels that are nearer than `nearest` or farther than `farthest` are invalid, and those
        stored as 0, which have no measurement.

        Raises:
            DataError: for a depth map of another size, or that is none.
            BrokenImage: for an image that cannot be read.
        """
        example = self.records[index]
        name = label_name(self.records, index)
        try:
            stored = decode_label_map(example["label_map"])
        except BrokenImage as error:
            raise DataError(
                f"{name} is no depth map ({error}): expected a grey PNG of 16 bits, of "
                f"config.data.unit = {self.data.unit:g} metres a step"
            ) from None
        example = opened(example, self.data)
        size = tuple(image_size(example["image"]))
        if stored.shape != size:
            found, wanted = (" x ".join(map(str, one)) for one in (stored.shape, size))
            raise DataError(
                f"{name} has {found} pixels (height x width), and its image {self.name(index)} has "
                f"{wanted}: a depth map has the size of its image"
            )
        depth = stored * self.data.unit
        valid = (stored > 0) & (depth >= self.data.nearest) & (depth <= self.data.farthest)
        return {"image": example["image"], "depth": np.where(valid, depth, 0).astype(np.float32)}

    def name(self, index: int) -> str:
        return self.records.name(index)


def depth_maps(data: "Data") -> Splits:
    """Loads `images/<split>/*` and `depth/<split>/*.png`, or NYUv2's `<split>/<scene>/rgb_*.jpg`.

    Without the folder of the test split, a fraction of the training images is held out.

    Raises:
        DataError: for a missing folder, an image without a depth map, or the reverse.
    """
    root = Path(data.path)
    depth = next((root / name for name in FOLDERS if (root / name).is_dir()), None)
    if not data.path or (depth is None and not (root / data.train_split).is_dir()):
        raise DataError(f"config.data.path = {data.path!r} holds no depth maps: {EXPECTED}")
    found = []
    for option in ("train_split", "test_split"):
        split = getattr(data, option)
        if depth is None:
            found.append(_of_scenes(root / split))
        else:
            names = f"config.data.{option}", "depth map", "a PNG of 16 bits for every image"
            found.append(paired_folders(root / "images", depth, split, *names))
    train, test = found
    if train is None:
        raise DataError(
            f"config.data.train_split = {data.train_split!r}: {root} has no such folder: {EXPECTED}"
        )
    return Splits(*hold_out(train, data.holdout), ()) if test is None else Splits(train, test, ())


def _of_scenes(folder: Path) -> LabelledImages | None:
    """Pairs `rgb_NUMBER` with `sync_depth_NUMBER` or `depth_NUMBER` of the same folder."""
    if not folder.is_dir():
        return None
    images, depths = [], []
    for path in map(Path, regular_files(str(folder), IMAGE_ENDINGS)):
        if not path.name.startswith(COLOR):
            continue
        number = path.stem.removeprefix(COLOR)
        pair = next((p for n in DEPTHS if (p := path.parent / f"{n}{number}.png").exists()), None)
        if pair is None:
            raise DataError(
                f"{printable(str(path))} has no depth map {DEPTHS[0]}{printable(number)}.png "
                "beside it: add what is missing, or remove the image"
            )
        images.append(str(path.relative_to(folder)))
        depths.append(str(pair.relative_to(folder)))
    if not images:
        raise DataError(f"{folder} holds no images named rgb_*: {EXPECTED}")
    return LabelledImages(files_below(folder, images), files_below(folder, depths))
