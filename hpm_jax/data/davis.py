"""Clips with annotated objects, in the layout of DAVIS.

`JPEGImages/<resolution>/<clip>/*.jpg` has the frames, `Annotations/<resolution>/<clip>/*.png` maps
of objects: 0 is the background, k an object, by palette index or grey value.
"""

import dataclasses
from pathlib import Path

import numpy as np

from hpm_jax.config.track import TrackData
from hpm_jax.data.decoding import BrokenImage, EncodedImage, decode_label_map
from hpm_jax.data.records import DataError
from hpm_jax.text_files import printable, read_text

FRAMES, MAPS, LISTS = "JPEGImages", "Annotations", "ImageSets"
YEARS = ("2017", "2016")
ENDINGS = (".jpg", ".jpeg", ".png")
IGNORED = -1
LIST_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Clip:
    """The files of a clip, in the order of time."""

    name: str
    frames: tuple[Path, ...]
    maps: tuple[Path | None, ...]  # None for a frame without annotation; the first has one
    data: TrackData

    def frame(self, place: int) -> np.ndarray:
        """Returns the pixels of a frame, uint8 `[h, w, channels]`.

        Raises:
            DataError: for a file that cannot be read.
        """
        path = self.frames[place]
        try:
            return EncodedImage(path.read_bytes(), self.data.max_pixels).pixels(self.data.channels)
        except (BrokenImage, OSError) as error:
            raise DataError(f"{printable(str(path))} cannot be read: {error}") from None

    def objects(self, place: int) -> np.ndarray | None:
        """Returns the objects of a frame, int16 `[h, w]`, or None: 0 is background, -1 left out.

        Raises:
            DataError: for a map that is none, or of another size than its frame.
        """
        path = self.maps[place]
        if path is None:
            return None
        try:
            found = decode_label_map(path.read_bytes())
        except (BrokenImage, OSError) as error:
            raise DataError(
                f"{printable(str(path))} is no map of objects ({error}): expected a PNG with one "
                "index a pixel, grey or with a palette"
            ) from None
        size = self.frame(place).shape[:2]
        if found.shape != size:
            there, wanted = (" x ".join(map(str, one)) for one in (found.shape, size))
            raise DataError(
                f"{printable(str(path))} has {there} pixels (height x width), and its frame "
                f"{self.frames[place].name} has {wanted}: a map has the size of its frame"
            )
        if found.max(initial=0, where=found != self.data.ignore_index) > 1000:
            raise DataError(
                f"{printable(str(path))} has the value {found.max()}: expected the numbers of "
                f"objects from 1 to 1000, or config.data.ignore_index = {self.data.ignore_index}"
            )
        return np.where(found == self.data.ignore_index, IGNORED, found).astype(np.int16)


def read_clips(data: TrackData) -> list[Clip]:
    """Finds the clips of a split, or all clips where the folder has no list of it.

    Raises:
        DataError: for a missing folder, a clip of fewer than two frames, or one whose first frame
            has no map.
    """
    root = Path(data.path)
    frames, maps = (root / kind / data.resolution for kind in (FRAMES, MAPS))
    if not data.path or not frames.is_dir() or not maps.is_dir():
        raise DataError(
            f"config.data.path = {data.path!r}: expected {FRAMES}/{data.resolution}/<clip>/*.jpg "
            f"and {MAPS}/{data.resolution}/<clip>/*.png, as in DAVIS"
        )
    names = _listed(root, data.split)
    if names is None:
        names = sorted(path.name for path in frames.iterdir() if path.is_dir())
    if not names:
        raise DataError(f"{frames} holds no clips: expected a folder of frames for each")
    return [_clip(name, frames / name, maps / name, data) for name in names]


def _listed(root: Path, split: str) -> list[str] | None:
    for year in YEARS:
        there = root / LISTS / year / f"{split}.txt"
        if there.exists():
            return read_text(there, LIST_BYTES, DataError).split()
    if (root / LISTS).is_dir():
        raise DataError(
            f"config.data.split = {split!r}: {root / LISTS} has no "
            f"{YEARS[0]}/{printable(split)}.txt"
        )
    return None


def _clip(name: str, frames: Path, maps: Path, data: TrackData) -> Clip:
    if not frames.is_dir():
        raise DataError(f"the clip {printable(name)} is in the list, and {frames} does not exist")
    files = sorted(path for path in frames.iterdir() if path.suffix.lower() in ENDINGS)
    if len(files) < 2:
        raise DataError(f"{frames} has {len(files)} frames: expected two or more, as .jpg or .png")
    pairs = tuple(path if (path := maps / f"{one.stem}.png").exists() else None for one in files)
    if pairs[0] is None:
        raise DataError(
            f"{maps / files[0].stem}.png does not exist: the first frame of a clip needs a map of "
            "its objects, from which they are tracked"
        )
    return Clip(name, tuple(files), pairs, data)
