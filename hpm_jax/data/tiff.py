"""Reads TIFF files that Pillow cannot read unchanged: 16 and 32 bits, any number of bands."""

import io
from typing import Any, Literal

import numpy as np
from PIL import Image

from hpm_jax.extras import import_extra

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
BITS, SAMPLES, EXTRA, FORMAT, DESCRIPTION = 258, 277, 338, 339, 270  # tags
UNSPECIFIED = 0  # an extra sample that is not alpha
INFLATED = 1100  # largest expansion factor of deflate
BANDS = "SCQ"  # axes of tifffile that are bands: samples, channels, and one without a name


def needs_tifffile(data: bytes, image: Image.Image | None) -> bool:
    """Whether Pillow would lose bits or bands, or cannot open it.

    Args:
        image: the image opened by Pillow; None if Pillow cannot open it.
    """
    if data[:4] not in MAGIC:
        return False
    tags: Any = getattr(image, "tag_v2", None)
    if image is None or tags is None:
        return _has_tags(data)
    bits, samples = _first(tags.get(BITS, 1)), tags.get(SAMPLES, 1)
    extra = tags.get(EXTRA, ()) or ()
    extra = extra if isinstance(extra, tuple) else (extra,)
    written = str(tags.get(DESCRIPTION, ""))
    pages = getattr(image, "n_frames", 1) > 1
    return (
        bits > 8
        or _first(tags.get(FORMAT, 1)) == 3
        or samples > 4
        or samples == 2
        or (samples > 3 and UNSPECIFIED in extra)
        or (pages and written.startswith(("ImageJ", '{"shape"')))
    )


def _has_tags(data: bytes) -> bool:
    """Whether the first list of tags is inside the file; it is not if the file is truncated."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    large = 43 in data[2:4]  # BigTIFF
    start = int.from_bytes(data[8:16] if large else data[4:8], order)
    wide, entry = (8, 20) if large else (2, 12)
    count = int.from_bytes(data[start : start + wide], order)
    return count > 0 and start + wide + entry * count <= len(data)


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def size_of(data: bytes) -> tuple[int, int]:
    """Returns height and width from the header, by tifffile."""
    with _open(data) as file:
        page = file.pages[0]
        return int(page.imagelength), int(page.imagewidth)


def decode_tiff(data: bytes) -> np.ndarray:
    """Returns the pixels `[h, w, bands]`, in the dtype of the file.

    Bands may be samples of a page, or pages that were written as channels. Of other pages, such as
    times and depths, the first is used.
    """
    with _open(data) as file:
        series = file.series[0]
        if series.nbytes > INFLATED * len(data):
            raise ValueError(f"{series.nbytes:,} bytes in a file of {len(data):,}")
        array, axes = series.asarray(), series.axes
    for place in reversed(range(len(axes))):
        if axes[place] not in f"YX{BANDS}":
            array, axes = array.take(0, axis=place), axes[:place] + axes[place + 1 :]
    height, width = axes.index("Y"), axes.index("X")
    rest = [place for place in range(len(axes)) if place not in (height, width)]
    array = array.transpose(height, width, *rest)
    return array.reshape(*array.shape[:2], -1)


def _open(data: bytes) -> Any:
    tifffile = import_extra("tifffile", "tiff", "a TIFF of 16 or 32 bits, or of several bands,")
    return tifffile.TiffFile(io.BytesIO(data))
