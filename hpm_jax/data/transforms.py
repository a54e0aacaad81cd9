"""Host-side crops: random ones and flips for training, along the middle for evaluation."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from hpm_jax.data.decoding import EncodedImage, with_channels

if TYPE_CHECKING:
    from hpm_jax.config import Data

# A file is decoded at half, a quarter or an eighth of its size where the crop still has twice the
# pixels that are wanted: 51 dB from the full decode, by measurement.
MARGIN = 2
SCALES = (1, 0.875, 0.75, 0.66)  # of the short side: heights and widths of multi-scale crops


class Box(NamedTuple):
    """A part of an image, in pixels; in fractions of them once the image is scaled."""

    top: float
    left: float
    height: float
    width: float


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """The box of torchvision's RandomResizedCrop.

    Up to ten times: an area uniform in `scale` of the whole, a width over height log-uniform in
    `ratio`, taken where it fits; else the largest centred box with a ratio in range.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def byol_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """The box of BYOL's crop (Grill et al. 2020), with which MAE and HPM train linear probes.

    Area and width over height are drawn as for `random_box`, but once: a side that is too long is
    cut to that of the image (MAE, util/crop.py). So boxes are larger on average, and their width
    over height may leave `ratio`.
    """
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w = min(max(1, round(math.sqrt(area * aspect))), width)
    h = min(max(1, round(math.sqrt(area / aspect))), height)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return Box(int(top), int(left), h, w)


def multi_scale_box(rng: np.random.Generator, height: int, width: int) -> Box:
    """The box of TSN's multi-scale crop (Wang et al. 2016), with which VideoMAE pre-trains.

    Height and width are each one of `SCALES` times the short side, at most one step apart. One of
    13 places: on a grid of 5 x 5 from edge to edge, those of its points whose row and column are
    both even or both odd.
    """
    sides = [int(min(height, width) * scale) for scale in SCALES]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    h, w = (max(1, sides[side]) for side in pairs[rng.integers(len(pairs))])
    # every second of the 25 points, row by row, has row and column alike
    row, column = divmod(2 * int(rng.integers(13)), 5)
    return Box((height - h) // 4 * row, (width - w) // 4 * column, h, w)


# From (rng, height, width, options) to the box of a training crop; config.data.crop.
CROPS: dict[str, Callable[[np.random.Generator, int, int, "Data"], Box]] = {
    "resized": lambda rng, height, width, data: random_box(
        rng, height, width, data.crop_scale, data.crop_ratio
    ),
    "byol": lambda rng, height, width, data: byol_box(
        rng, height, width, data.crop_scale, data.crop_ratio
    ),
    "multi_scale": lambda rng, height, width, data: multi_scale_box(rng, height, width),
}


def resize(array: np.ndarray, size: tuple[int, int], box: tuple | None = None) -> np.ndarray:
    """Bicubic and antialiased, as PIL and torchvision do it: `[h, w, C]` to `[*size, C]`.

    Args:
        box: the part to resize, (left, top, right, bottom), fractions allowed; None for all.
    """
    if array.shape[-1] not in (1, 3):
        channels = [resize(array[..., c : c + 1], size, box) for c in range(array.shape[-1])]
        return np.concatenate(channels, axis=-1)
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    image = image.resize(size[::-1], Image.Resampling.BICUBIC, box)
    return np.asarray(image).reshape(*size, array.shape[-1])


def train_crop(image: bytes | np.ndarray, rng: np.random.Generator, data: "Data") -> np.ndarray:
    """A random crop, resized, mirrored or not: uint8 `[*data.image_size, channels]`.

    Raises:
        BrokenImage: for bytes that cannot be decoded.
    """
    encoded = EncodedImage(image) if isinstance(image, bytes) else None
    height, width = (encoded.height, encoded.width) if encoded else image.shape[:2]
    box = CROPS[data.crop](rng, height, width, data)
    flip = rng.random() < data.flip
    if encoded:
        needed = (MARGIN * data.image_size[0], MARGIN * data.image_size[1])
        eighths = encoded.smallest_scale(box.height, box.width, needed)
        image = encoded.pixels(data.channels, eighths)
        box = Box(*(edge * eighths / 8 for edge in box))
    crop = cut(with_channels(image, data.channels), box, data.image_size)
    return mirror(crop) if flip else crop


def mirror(image: np.ndarray) -> np.ndarray:
    """Left and right exchanged, `[..., w, C]`: whole pixels are copied, not one byte at a time."""
    return np.take(image, np.arange(image.shape[-2])[::-1], axis=-2)


def cut(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The part of `image` `[h, w, C]` in `box`, resized: `[*size, C]`."""
    # first whole pixels, so that nothing outside the crop shines in, then the exact fraction
    top, left = math.floor(box.top), math.floor(box.left)
    bottom, right = math.ceil(box.top + box.height), math.ceil(box.left + box.width)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    inner = (box.left - left, box.top - top)
    return resize(part, size, (*inner, inner[0] + box.width, inner[1] + box.height))


def test_crop(image: bytes | np.ndarray, data: "Data") -> np.ndarray:
    """Resized so that the crop is `data.test_crop` of it, then the centre."""
    if isinstance(image, bytes):
        image = EncodedImage(image).pixels(data.channels)
    return spread_crops(with_channels(image, data.channels), data, 1)[0]


def spread_crops(image: np.ndarray, data: "Data", count: int) -> list[np.ndarray]:
    """Resized as by `test_crop`, then `count` crops along the longer side, uint8 `[H, W, C]` each.

    The first is at the left or top edge and the last at the other; one alone is in the centre. To
    the pixel as torchvision's Resize and CenterCrop.
    """
    size = test_size(image.shape[:2], data)
    image = resize(np.ascontiguousarray(image), size)
    room = (size[0] - data.image_size[0], size[1] - data.image_size[1])
    crops = []
    for number in range(count):
        corner = [round(room[0] / 2), round(room[1] / 2)]
        if count > 1:
            longer = int(room[1] >= room[0])
            corner[longer] = room[longer] * number // (count - 1)
        top, left = corner
        crops.append(image[top : top + data.image_size[0], left : left + data.image_size[1]])
    return crops


def test_size(found: tuple[int, ...], data: "Data") -> tuple[int, int]:
    """The height and width that an image of size `found` has before it is cropped for testing.

    The side that is shorter, against the crop's, becomes that of the crop over `data.test_crop`.
    """
    wanted = [int(side / data.test_crop) for side in data.image_size]
    short = 0 if found[0] * wanted[1] <= found[1] * wanted[0] else 1
    long = 1 - short
    size = list(wanted)
    size[long] = max(wanted[long], int(wanted[short] * found[long] / found[short]))
    return size[0], size[1]
