"""From the bytes of an image file to uint8 pixels; which decoder and why: docs/data.md."""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the EXIF tag that cameras write instead of turning the pixels
# A file is decoded at half, a quarter or an eighth of its size where the crop still has twice the
# pixels that are wanted: 51 dB from the full decode, by measurement.
MARGIN = 2
SCALES = (1, 2, 4)  # eighths: the sizes at which libjpeg decodes faster, smallest first


class BrokenImage(ValueError):
    """Bytes that are not a whole image."""


class EncodedImage:
    """An image file whose header has been read; a plain JPEG's pixels are decoded when asked for.

    Attributes:
        height, width: in pixels, as a person sees the image: upright.

    Raises:
        BrokenImage: for bytes that are not a whole image.
    """

    def __init__(self, data: bytes):
        try:
            image = Image.open(io.BytesIO(data))
            upright = image.getexif().get(ORIENTATION, 1) == 1
            # simplejpeg is faster than Pillow, and refuses damage that Pillow fills with grey
            jpeg = image.format == "JPEG" and image.mode in ("RGB", "L") and upright
            self._data: bytes | np.ndarray = data if jpeg else _decode(image)
        except Exception as error:  # Pillow raises many kinds for bytes that are no image
            raise BrokenImage(str(error)) from error
        if isinstance(self._data, bytes):
            self.width, self.height = image.size
        else:
            self.height, self.width = self._data.shape[:2]

    def pixels(self, channels: int, eighths: int = 8) -> np.ndarray:
        """uint8 `[h, w, channels]`, at the scale `eighths / 8` of a plain JPEG.

        Grey becomes colour by repetition, colour grey by its luma; other counts are an error.
        """
        if not isinstance(self._data, bytes):
            return with_channels(self._data, channels)
        size = {"min_height": -(-self.height * eighths // 8)} if eighths != 8 else {}
        try:
            array = simplejpeg.decode_jpeg(self._data, "GRAY" if channels == 1 else "RGB", **size)
        except ValueError as error:
            raise BrokenImage(str(error)) from error
        return with_channels(array, channels)

    def smallest_scale(self, height: float, width: float, needed: tuple[int, int]) -> int:
        """The eighths at which a `height` x `width` part still has the `needed` size."""
        for eighths in SCALES if isinstance(self._data, bytes) else ():
            if height * eighths >= 8 * needed[0] and width * eighths >= 8 * needed[1]:
                return eighths
        return 8


def decode_label_map(data: bytes) -> np.ndarray:
    """The numbers of an image file, int32 `[h, w]`: grey values, or places in a palette.

    Raises:
        BrokenImage: for bytes that are not a whole image, and for one of colours.
    """
    try:
        array = np.asarray(Image.open(io.BytesIO(data)))
    except Exception as error:  # as above
        raise BrokenImage(str(error)) from error
    if array.ndim != 2 or array.dtype.kind == "f":
        raise BrokenImage("a label map holds one whole number a pixel, and this one does not")
    return array.astype(np.int32)


def _decode(image: Image.Image) -> np.ndarray:
    """What is no plain JPEG, by Pillow: uint8 `[h, w, 1 or 3]`, upright."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(np.asarray(image))[..., None]
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


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
