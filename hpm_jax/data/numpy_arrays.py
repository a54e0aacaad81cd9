"""Reads images from NumPy files: .npy, memory-mapped, and .npz, whose arrays are found by name."""

import dataclasses
import functools
import hashlib
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpm_jax.data.folders import test_names
from hpm_jax.data.labels import check_count, number_labels
from hpm_jax.data.records import DataError, Example, Records, Splits, read_splits

if TYPE_CHECKING:
    from hpm_jax.config import Data

IMAGE_NAMES = ("images", "image", "imgs", "img", "x", "data", "inputs", "samples", "arr_0", "")
LABEL_NAMES = ("labels", "label", "y", "targets", "target", "classes", "arr_1")
SAMPLED = 64  # number of images in a fingerprint


class Place(NamedTuple):
    """The location of an array: a .npy file, or the member `key` of an .npz file."""

    path: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}, array {self.key!r}" if self.key else self.path


@functools.lru_cache(maxsize=32)
def open_array(place: Place) -> np.ndarray:
    """Opens an array, once per process; only a compressed array is read into memory.

    Raises:
        DataError: for a damaged file, or a file of Python objects, which could execute code.
    """
    try:
        if not place.key:
            return np.load(place.path, mmap_mode="r", allow_pickle=False)
        mapped = _map_member(place)
        if mapped is not None:
            return mapped
        with np.load(place.path, allow_pickle=False) as arrays:
            return arrays[place.key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{place} cannot be read ({error}): save numbers by numpy.save or numpy.savez"
        ) from error


def _map_member(place: Place) -> np.ndarray | None:
    """Returns the array memory-mapped inside the .npz; None for a compressed one."""
    with zipfile.ZipFile(place.path) as archive, open(place.path, "rb") as file:
        member = archive.getinfo(f"{place.key}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(member.header_offset + 26)  # the lengths of the name and of an extra field
        name, extra = np.frombuffer(file.read(4), "<u2").tolist()
        file.seek(name + extra, 1)
        version = np.lib.format.read_magic(file)
        read = {1: "read_array_header_1_0", 2: "read_array_header_2_0"}.get(version[0])
        if read is None:
            return None
        shape, fortran, dtype = getattr(np.lib.format, read)(file)
        if dtype.hasobject or not np.prod(shape):
            return None
        order = "F" if fortran else "C"
        return np.memmap(place.path, dtype, "r", file.tell(), shape, order)  # type: ignore


@dataclasses.dataclass(frozen=True)
class MappedImages:
    """Images of an array `[N, ...]` that each process opens itself."""

    place: Place
    labels: np.ndarray  # int32
    layout: str  # of one image: "hw", "hwc", "chw", or of a video "thw", "thwc"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        image = np.array(open_array(self.place)[index])
        if self.layout == "chw":
            image = image.transpose(1, 2, 0)
        elif self.layout in ("hw", "thw"):
            image = image[..., None]
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return f"{self.place}, image {index}"

    def identity(self) -> bytes:
        """Returns shape, dtype and some of the images."""
        array = open_array(self.place)
        digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
        for index in np.linspace(0, len(array) - 1, min(SAMPLED, len(array))).astype(int):
            digest.update(np.ascontiguousarray(array[index]).data)
        return digest.digest()


def numpy_arrays(data: "Data") -> Splits:
    """Loads an .npy or .npz file, or a folder of them; without test arrays some are held out.

    Arrays are found by name, such as `images` and `labels`, `x_train` and `y_test`, or `train.npz`;
    `data.image_key` and `data.label_key` name others.

    Raises:
        DataError: if there are no images, or labels of another length.
    """
    places = find_places(data)
    tests = tuple(name for name in test_names(data) if name)
    there = _find(places, data.image_key, IMAGE_NAMES, tests) is not None
    read = functools.partial(_split, places, data)
    trains = (data.train_split, "train", "")
    return read_splits(read, trains, tests if there else None, data.holdout)


def find_places(data: "Data") -> dict[str, Place]:
    """Returns all arrays by name; `images` in `train.npz` is called `train_images`."""
    root = Path(data.path)
    files = sorted([*root.glob("*.npy"), *root.glob("*.npz")]) if root.is_dir() else [root]
    if not data.path or not files or not all(file.is_file() for file in files):
        raise DataError(
            f"config.data.path = {data.path!r} holds no .npy or .npz file: give one, or the folder "
            "of several, as in --config.data.path=/data/images.npz"
        )
    if root.is_file() and root.suffix == ".npy":  # its labels may lie beside it
        stem = root.stem
        files += [
            path
            for path in sorted(root.parent.glob("*.npy"))
            if path.stem in _label_stems(stem) and path != root
        ]
    places: dict[str, Place] = {}
    for file in files:
        if file.suffix == ".npz":
            try:
                with zipfile.ZipFile(file) as archive:
                    keys = [name.removesuffix(".npy") for name in archive.namelist()]
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"{file} is no whole .npz file ({error}): copy it again") from error
            prefix = f"{file.stem}_" if len(files) > 1 else ""
            places |= {f"{prefix}{key}": Place(str(file), key) for key in keys}
        else:
            places[file.stem] = Place(str(file))
    return places


def _label_stems(stem: str) -> set[str]:
    """Returns possible names for the labels of `stem.npy`."""
    names = {f"{stem}_{label}" for label in LABEL_NAMES} | {"labels", "label", "y"}
    for image in IMAGE_NAMES[:-2]:
        pattern = rf"(?:^|(?<=_)){image}(?=_|$)"
        names |= {re.sub(pattern, label, stem, flags=re.I) for label in LABEL_NAMES}
    return names - {stem}


def _split(
    places: dict[str, Place], data: "Data", names: tuple[str, ...], classes: tuple[str, ...] | None
) -> tuple[Records, tuple[str, ...]]:
    found = _find(places, data.image_key, IMAGE_NAMES, names)
    if found is None and names[-1] == "":
        stacks = [key for key in places if open_array(places[key]).ndim >= 3]
        found = stacks[0] if len(stacks) == 1 and not data.image_key else None
    if found is None:
        shapes = ", ".join(f"{key} {open_array(places[key]).shape}" for key in places)
        what = f"no array {data.image_key!r}" if data.image_key else "no images"
        raise DataError(
            f"{data.path} has {what} among its arrays ({shapes}): name the array of images "
            "[N, H, W] or [N, H, W, C] by --config.data.image_key"
        )
    array = open_array(places[found])
    layout = _layout(array, places[found], data)
    key = None
    if data.label_key != "none":
        key = _find(places, data.label_key, LABEL_NAMES, (*names, found))
        if key is None and data.label_key:
            raise DataError(
                f"{data.path} has no array {data.label_key!r} (config.data.label_key), but "
                f"{', '.join(places)}"
            )
    if key is None:
        return MappedImages(places[found], np.full(len(array), -1, np.int32), layout), ()
    values = open_array(places[key])
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1:
        raise DataError(
            f"{places[key]} has the shape {values.shape}: expected one label for each of "
            f"{len(array)} images, or --config.data.label_key=none"
        )
    check_count(len(values), len(array), f"{places[key]} beside {places[found]}")
    labels, classes = number_labels(values.tolist(), str(places[key]), classes)
    return MappedImages(places[found], labels, layout), classes


def _find(
    places: dict[str, Place], given: str, bases: Iterable[str], splits: tuple[str, ...]
) -> str | None:
    """Returns an array's name: split and base such as `images`, in either order, or `given`."""
    lower = {key.lower(): key for key in places}
    for base in (given.lower(),) if given else bases:
        for split in splits:
            parts = [part for part in (split.lower(), base) if part]
            for name in ("_".join(parts), "_".join(reversed(parts))):
                if name and name in lower:
                    return lower[name]
    return None


def _layout(array: np.ndarray, place: Place, data: "Data") -> str:
    """Returns the axes of one image, from the options and the number of axes."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{place} holds {array.dtype}, expected whole or floating-point numbers")
    if data.frames > 1:
        layouts = {4: "thw", 5: "thwc"}
        expected = "[N, T, H, W] or [N, T, H, W, C], as config.data.frames is more than 1"
    elif data.channels_first:
        layouts, expected = {4: "chw"}, "[N, C, H, W], as config.data.channels_first is True"
    else:
        layouts, expected = {3: "hw", 4: "hwc"}, "[N, H, W] or [N, H, W, C]"
    if array.ndim not in layouts or not array.size:
        raise DataError(f"{place} has the shape {array.shape}, expected {expected}")
    layout = layouts[array.ndim]
    if layout == "hwc" and array.shape[1] in (1, 3, 4) and array.shape[3] > 16:
        raise DataError(
            f"{place} has the shape {array.shape}, which looks like [N, C, H, W]: "
            "--config.data.channels_first=True"
        )
    return layout
