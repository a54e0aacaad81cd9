"""Reads volumes, .nii, .nii.gz and .npy, as slices or as blocks on the `(t, h, w)` video grid."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.decoding import BrokenImage
from hpm_jax.data.folders import Files, class_folders
from hpm_jax.data.records import DataError, Example, Records, Splits, Subset
from hpm_jax.extras import MissingPackage, import_extra

if TYPE_CHECKING:
    from hpm_jax.config import Data

ENDINGS = (".nii", ".nii.gz", ".npy")
CACHED = 4  # volumes cached per process; uncompressed ones are memory-mapped


@functools.lru_cache(maxsize=CACHED)
def open_volume(path: str) -> Any:
    """Opens a volume `[d, h, w]`, whose slices are read when they are indexed.

    NIfTI's third axis is the depth, its second the height; its slope and intercept are applied.

    Raises:
        BrokenImage: if the file cannot be read.
    """
    try:
        if path.endswith(".npy"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        image = _nibabel().load(path)
        if path.endswith(".gz"):  # no random access in it: read once
            return np.asarray(image.dataobj).transpose()
        return image.dataobj
    except MissingPackage:
        raise
    except Exception as error:  # nibabel raises many kinds
        raise BrokenImage(f"{path}: {error}") from error


def _nibabel() -> Any:
    return import_extra("nibabel", "volumes", "a .nii file")


def shape_of(path: str) -> tuple[int, ...]:
    """Returns depth, height and width from the header."""
    try:
        if path.endswith(".npy"):
            return np.load(path, mmap_mode="r", allow_pickle=False).shape
        return tuple(reversed(_nibabel().load(path).shape))
    except MissingPackage:
        raise
    except Exception as error:  # as above
        raise DataError(f"{path} cannot be read ({error}): copy it again or remove it") from error


def read_part(path: str, part: int | slice) -> np.ndarray:
    """Returns a slice `[h, w]`, or several `[d, h, w]`."""
    try:
        volume = open_volume(path)
        if isinstance(volume, np.ndarray):
            return np.array(volume[part])
        return np.asarray(volume[..., part]).transpose()  # [x, y, z] of nibabel
    except (MissingPackage, BrokenImage):
        raise
    except Exception as error:  # of a file that is cut
        raise BrokenImage(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Whole volumes as videos `[d, h, w, 1]`, from which clips are sampled."""

    files: Files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        volume = read_part(str(self.files.path(index)), slice(None))
        return {"image": volume[..., None], "label": int(self.files.labels[index])}

    @property
    def labels(self) -> np.ndarray:
        """The label of each volume, int32."""
        return self.files.labels

    def name(self, index: int) -> str:
        return self.files.name(index)

    def identity(self) -> bytes:
        """Names and sizes of the files."""
        return _identity(self.files)


@dataclasses.dataclass(frozen=True)
class Slices:
    """Every slice of every volume, as an image `[h, w, 1]`."""

    files: Files
    starts: np.ndarray  # int64, the first slice of each volume, and the total number

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _place(self, index: int) -> tuple[int, int]:
        volume = int(np.searchsorted(self.starts, index, side="right")) - 1
        return volume, int(index - self.starts[volume])

    def __getitem__(self, index: int) -> Example:
        volume, depth = self._place(index)
        image = read_part(str(self.files.path(volume)), depth)
        return {"image": image[..., None], "label": int(self.files.labels[volume])}

    @property
    def labels(self) -> np.ndarray:
        """The label of each slice, int32: that of its volume."""
        return np.repeat(self.files.labels, np.diff(self.starts))

    def name(self, index: int) -> str:
        volume, depth = self._place(index)
        return f"{self.files.name(volume)}, slice {depth}"

    def identity(self) -> bytes:
        """Returns names and sizes of the files, and the first slice of each."""
        return _identity(self.files) + self.starts.astype("<i8").tobytes()


def _identity(files: Files) -> bytes:
    sizes = [os.stat(files.path(index)).st_size for index in range(len(files))]
    return np.array(sizes, "<i8").tobytes() + b"\0".join(files.paths.tolist())


def volumes(data: "Data") -> Splits:
    """Loads folders of volumes, laid out as image folders; as blocks if `data.frames` exceeds 1.

    Whole volumes are held out, never slices of a training volume.

    Raises:
        DataError: for a volume that is not 3-D.
    """
    splits = class_folders(data, "volumes", ENDINGS)
    train, test = (_records(records, data.frames > 1) for records in splits[:2])
    return Splits(train, test, splits.classes)


def _records(records: Records, blocks: bool) -> Records:
    files = _of_subset(records)
    depths = []
    for index in range(len(files)):
        path = str(files.path(index))
        shape = shape_of(path)
        if len(shape) != 3 or 0 in shape:
            raise DataError(
                f"{Path(path)} has {len(shape)} axes, {' x '.join(map(str, shape))}, expected a "
                "volume of depth, height and width: split it into 3-D files, or remove it"
            )
        depths.append(shape[0])
    if blocks:
        return Blocks(files)
    return Slices(files, np.concatenate([[0], np.cumsum(depths, dtype=np.int64)]))


def _of_subset(records: Any) -> Files:
    """Returns the files of a split; a held-out part becomes a list of its own."""
    if not isinstance(records, Subset):
        return records
    files: Any = records.records
    return dataclasses.replace(
        files, paths=files.paths[records.indices], labels=files.labels[records.indices]
    )
