"""Decodes image files to pixels; docs/data.md explains the choice of decoder."""

import io

import numpy as np
from PIL import Image, ImageOps

from hpm_jax.data.jpeg import Part, decode_jpeg
from hpm_jax.data.tiff import decode_tiff, needs_tifffile, size_of
from hpm_jax.extras import MissingPackage

ORIENTATION = 0x0112  # the EXIF tag that cameras write instead of turning the pixels
# A file is decoded at half, a quarter or an eighth of its size if the crop still has twice the
# required pixels: 51 dB from the full decode, by measurement.
MARGIN = 2
SCALES = (1, 2, 4)  # eighths: the sizes at which libjpeg decodes faster, smallest first


MOST_PIXELS = 178_956_970  # limit per image; Pillow refuses more


class BrokenImage(ValueError):
    """A file is not a complete image."""


class TooLarge(BrokenImage):
    """An image has more pixels than allowed."""


class OtherKind(BrokenImage):
    """A valid image whose channels or dtype differ from the config."""


class EncodedImage:
    """An image file whose header has been read; the pixels of a plain JPEG are decoded lazily.

    Attributes:
        height, width: in pixels, after EXIF rotation.
        channels: channels of the file; a palette counts as three, transparency as none.

    Raises:
        BrokenImage: for bytes that are not a complete image.
        TooLarge: for more than `max_pixels`, before anything is decoded.
    """

    def __init__(self, data: bytes, max_pixels: int = MOST_PIXELS):
        try:
            image = _open(data)
            if needs_tifffile(data, image):
                self.height, self.width = size_of(data)
                check_pixels(self.width, self.height, max_pixels)
                self._data: bytes | np.ndarray = decode_tiff(data)
                self.channels = self._data.shape[-1]
                return
            assert image is not None
            check_pixels(*image.size, max_pixels)
            upright = image.getexif().get(ORIENTATION, 1) == 1
            # simplejpeg is faster than Pillow, and refuses damage that Pillow fills with grey
            jpeg = image.format == "JPEG" and image.mode in ("RGB", "L") and upright
            self._data = data if jpeg else _decode(image)
        except TooLarge:
            raise
        except Exception as error:  # Pillow raises many kinds for bytes that are not an image
            missing = isinstance(error, MissingPackage) or "imagecodecs" in str(error)
            raise (OtherKind if missing else BrokenImage)(str(error)) from error
        if isinstance(self._data, bytes):
            self.width, self.height = image.size
            self.channels = len(image.mode)  # only RGB and L reach this line
        else:
            self.height, self.width, self.channels = self._data.shape

    def pixels(
        self, channels: int, eighths: int = 8, deep: bool = False, part: Part | None = None
    ) -> np.ndarray:
        """Returns pixels `[h, w, channels]`, a plain JPEG at the scale `eighths / 8`.

        Grey is converted to colour by repetition, colour to grey by its luma; other channel counts
        are an error.

        Args:
            deep: whether 16- and 32-bit values are kept; otherwise the result is uint8.
            part: the pixels to return, of the scaled image; None for all.
        """
        if isinstance(self._data, bytes):
            colours, size = 1 if channels == 1 else 3, (self.height, self.width)
            try:
                array = decode_jpeg(self._data, colours, size, eighths, part)
            except ValueError as error:
                raise BrokenImage(str(error)) from error
            return with_channels(array, channels)
        array = with_channels(self._data if deep else to_8_bits(self._data), channels)
        return array if part is None else part.of(array)

    @property
    def is_jpeg(self) -> bool:
        """Whether a part or a lower scale is decoded faster than the whole image."""
        return isinstance(self._data, bytes)

    def smallest_scale(self, height: float, width: float, needed: tuple[int, int]) -> int:
        """Returns the eighths at which a `height` x `width` part still has the `needed` size."""
        for eighths in SCALES if isinstance(self._data, bytes) else ():
            if height * eighths >= 8 * needed[0] and width * eighths >= 8 * needed[1]:
                return eighths
        return 8


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises a `TooLarge` for an image of more pixels than `max_pixels`."""
    if width * height > max_pixels:
        raise TooLarge(
            f"{width} x {height} pixels, more than config.data.max_pixels = {max_pixels}"
        )


def why_too_large(data: bytes, max_pixels: int) -> str:
    """Returns the reason if the header of an image file declares too many pixels; else ""."""
    try:
        image = _open(data)
        size = size_of(data)[::-1] if image is None else image.size
        check_pixels(*size, max_pixels)
    except TooLarge as error:
        return str(error)
    except Exception:  # not an image: the file has another defect
        return ""
    return ""


def _open(data: bytes) -> Image.Image | None:
    """Opens an image with Pillow; None for a TIFF that Pillow cannot read."""
    try:
        return Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        if needs_tifffile(data, None):
            return None
        raise


def decode_label_map(data: bytes) -> np.ndarray:
    """Decodes a label map, int32 `[h, w]`: grey values, or palette indices.

    Raises:
        BrokenImage: for bytes that are not a complete image, or a colour image.
    """
    try:
        array = np.asarray(Image.open(io.BytesIO(data)))
    except Exception as error:  # as above
        raise BrokenImage(str(error)) from error
    if array.ndim != 2 or array.dtype.kind == "f":
        raise BrokenImage("a label map holds one whole number a pixel, and this one does not")
    return array.astype(np.int32)


def _decode(image: Image.Image) -> np.ndarray:
    """Decodes anything but a plain JPEG with Pillow: `[h, w, 1 or 3]`, upright."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _narrowed(np.asarray(image))[..., None]
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def _narrowed(array: np.ndarray) -> np.ndarray:
    """Converts integers that Pillow stores in 16 or 32 bits to the smallest sufficient dtype."""
    if array.dtype.kind == "f" or not array.size or array.min() < 0 or array.max() > 65535:
        return array
    return array.astype(np.uint8 if array.max() <= 255 else np.uint16)


def to_8_bits(array: np.ndarray) -> np.ndarray:
    """Converts pixels to uint8: bool to black and white, uint16 divided by 257.

    Raises:
        OtherKind: for numbers whose range is unknown.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array / 257).astype(np.uint8)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    raise OtherKind(
        f"{array.dtype} values, here from {low:g} to {high:g}, have no range of their own: say "
        f"what becomes 0 and 1, as in --config.data.value_range='({low:g},{high:g})'; "
        "python -m hpm_jax.data.inspect measures it"
    )


def to_pixels(array: np.ndarray, value_range: tuple[float, ...]) -> np.ndarray:
    """Converts a crop for a batch: uint8, or with a range float32, 0 at `low`, 1 at `high`."""
    if not value_range:
        return array
    low, high = value_range
    return (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)


def check_finite(array: np.ndarray) -> None:
    """Raises an `OtherKind` for NaN or infinite values in float data."""
    if array.dtype.kind == "f" and (bad := int(array.size - np.isfinite(array).sum())):
        raise OtherKind(
            f"{bad} of {array.size} values are NaN or infinite: replace them in the file, as "
            "numpy.nan_to_num does, or remove it"
        )


def with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Converts `[h, w, c]` to the requested number of channels."""
    if array.shape[-1] == channels:
        return array
    if array.shape[-1] == 1:
        return np.repeat(array, channels, axis=-1)
    if array.shape[-1] == 3 and channels == 1:
        if array.dtype != np.uint8:
            return (array @ np.array(LUMA, np.float32))[..., None]
        return np.asarray(Image.fromarray(array).convert("L"))[..., None]
    found = array.shape[-1]
    raise OtherKind(
        f"{found} channels, and config.data.channels is {channels}: "
        f"--config.data.channels={found}, with {found} values each in --config.data.mean and "
        "--config.data.std"
    )


LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in Pillow
