"""From the bytes of an image file to uint8 pixels; which decoder and why: docs/data.md."""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the EXIF tag that cameras write instead of turning the pixels
SCALES = (1, 2, 4)  # eighths: the sizes at which libjpeg decodes faster, smallest first


class BrokenImage(ValueError):
    """Bytes that are not a whole image."""


class EncodedImage:
    """An image file whose header has been read and whose pixels have not.

    Attributes:
        height, width: in pixels, as a person sees the image: upright.
    """

    def __init__(self, data: bytes):
        try:
            self._image = Image.open(io.BytesIO(data))
            turned = self._image.getexif().get(ORIENTATION, 1) != 1
        except Exception as error:  # Pillow raises many kinds for bytes that are no image
            raise BrokenImage(str(error)) from error
        self._data = data
        # simplejpeg is faster than Pillow and refuses damage that Pillow fills with grey
        plain = self._image.format == "JPEG" and self._image.mode in ("RGB", "L") and not turned
        self._fast = plain
        if not plain:
            self._array = self._decode_slowly()
        self.height, self.width = self._array.shape[:2] if not plain else self._image.size[::-1]

    def _decode_slowly(self) -> np.ndarray:
        try:
            image = ImageOps.exif_transpose(self._image)
            if image.mode.startswith("I") or image.mode == "F":
                return _from_deep(np.asarray(image))[..., None]
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")).reshape(
                image.height, image.width, -1
            )
        except Exception as error:
            raise BrokenImage(str(error)) from error

    def pixels(self, channels: int, eighths: int = 8) -> np.ndarray:
        """uint8 `[h, w, channels]`, at the scale `eighths / 8` where the file can do that.

        Grey becomes colour by repetition, colour grey by its luma; other counts are an error.
        """
        if self._fast:
            size = {}
            if eighths != 8:
                size = {
                    "min_height": -(-self.height * eighths // 8),
                    "min_width": -(-self.width * eighths // 8),
                }
            colorspace = "GRAY" if channels == 1 else "RGB"
            try:
                array = simplejpeg.decode_jpeg(self._data, colorspace, **size)
            except ValueError as error:
                raise BrokenImage(str(error)) from error
        else:
            array = self._array
        return with_channels(array, channels)

    def smallest_scale(self, height: float, width: float, needed: tuple[int, int]) -> int:
        """The eighths at which a `height` x `width` part still has the `needed` size."""
        if self._fast:
            for eighths in SCALES:
                if height * eighths >= 8 * needed[0] and width * eighths >= 8 * needed[1]:
                    return eighths
        return 8


def _from_deep(array: np.ndarray) -> np.ndarray:
    """16-bit grey to 8-bit; Pillow's own conversion would clip it to white."""
    if array.dtype.kind == "f":
        raise BrokenImage("an image of floating-point numbers, whose range nobody knows")
    if array.size and int(array.max()) > 255:
        return np.rint(array / 257).clip(0, 255).astype(np.uint8)
    return array.astype(np.uint8)


def with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """`[h, w, c]` with the count of channels asked for."""
    if array.shape[-1] == channels:
        return array
    if array.shape[-1] == 1:
        return np.repeat(array, channels, axis=-1)
    if array.shape[-1] == 3 and channels == 1:
        return np.asarray(Image.fromarray(array).convert("L"))[..., None]
    raise BrokenImage(f"{array.shape[-1]} channels, and config.data.channels is {channels}")
