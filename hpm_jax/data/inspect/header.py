"""Reads the header of an image, without decoding it."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hpm_jax.data.decoding import ORIENTATION
from hpm_jax.data.tiff import BITS, SAMPLES, needs_tifffile, size_of

BANDS = {"1": 1, "L": 1, "P": 3, "LA": 1, "PA": 3, "RGBA": 3, "RGBX": 3, "CMYK": 3, "La": 1}


class Header(NamedTuple):
    """The header of one image."""

    format: str  # JPEG, PNG, ...; array if there is no file
    height: int  # upright
    width: int
    channels: int  # as in the pipeline: without transparency
    bits: int  # per value
    size: int  # bytes
    notes: tuple[str, ...]  # palette, transparent, rotated by EXIF, ...


def header_of(source: bytes | Path | np.ndarray) -> Header:
    """Returns the header of a file, of its bytes, or of an image in memory.

    Raises:
        Exception: of Pillow and tifffile, for anything but an image.
    """
    if isinstance(source, np.ndarray):
        h, w, c = source.shape[-3:]
        return Header("array", h, w, c, 8 * source.dtype.itemsize, source.nbytes, ())
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.format == "TIFF":
                return _tiff(_bytes(source), image, size)
            return _by_pillow(image, size)
    except Image.UnidentifiedImageError:
        data = _bytes(source)
        if needs_tifffile(data, None):
            height, width = size_of(data)
            return Header("TIFF", height, width, 0, 0, size, ())
        raise


def _bytes(source: bytes | Path) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _by_pillow(image: Image.Image, size: int) -> Header:
    width, height = image.size
    notes = []
    turned = image.getexif().get(ORIENTATION, 1)
    if turned != 1:
        notes.append("turned by EXIF")
    if turned >= 5:
        width, height = height, width
    if image.mode == "P":
        notes.append("palette")
    if image.mode in ("RGBA", "LA", "PA", "La") or "transparency" in image.info:
        notes.append("transparent")
    if image.mode == "CMYK":
        notes.append("CMYK")
    if getattr(image, "is_animated", False):
        notes.append("animated")
    deep = 16 if image.mode.startswith("I") else 32 if image.mode == "F" else 8
    channels = BANDS.get(image.mode, len(image.getbands()))
    return Header(str(image.format), height, width, channels, deep, size, tuple(notes))


def _tiff(data: bytes, image: Image.Image, size: int) -> Header:
    found = _by_pillow(image, size)
    if not needs_tifffile(data, image):
        return found
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, found.bits)
    bits = int(bits[0] if isinstance(bits, tuple) else bits)
    return found._replace(channels=int(tags.get(SAMPLES, found.channels)), bits=bits, notes=())
