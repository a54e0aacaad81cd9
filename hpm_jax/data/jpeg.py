"""Decodes JPEG files: the whole image, or by a compiled extension only a part of it."""

from typing import NamedTuple

import numpy as np
import simplejpeg

from hpm_jax.extras import compiled

_compiled = compiled("hpm_jax.data._jpeg")


class Part(NamedTuple):
    """Whole pixels of an image."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """Returns this part of `[h, w, C]`, without a copy."""
        rows = slice(self.top, self.top + self.height)
        return image[rows, self.left : self.left + self.width]


def decode_jpeg(
    data: bytes, channels: int, size: tuple[int, int], eighths: int, part: Part | None
) -> np.ndarray:
    """Decodes a JPEG file to uint8 `[h, w, channels]`, at the scale `eighths / 8`.

    The pixels and errors are the same with the extension and without.

    Args:
        channels: 1 or 3.
        size: height and width in its header.
        eighths: 1, 2, 4 or 8.
        part: what to return of the scaled image; None for all.

    Raises:
        ValueError: if anything in the file is damaged, also outside the part.
    """
    height, width = size
    if part is not None and _compiled and height >= 8:
        pixels = np.empty((part.height, part.width, channels), np.uint8)
        if _compiled.decode(data, pixels, height, width, part.top, part.left, eighths):
            return pixels
    scale = {"min_height": -(-height * eighths // 8)} if eighths != 8 else {}
    image = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", **scale)
    return image if part is None else part.of(image)
