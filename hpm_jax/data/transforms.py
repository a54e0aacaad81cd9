"""Crops: random ones for training, centred ones for evaluation."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hpm_jax.data.geometry import Box, View

if TYPE_CHECKING:
    from hpm_jax.config import Data

THIN = 32  # aspect ratio, relative to the crop's, from which an image is not resized as a whole
SCALES = (1, 0.875, 0.75, 0.66)  # of the short side: heights and widths of multi-scale crops


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Draws the box of torchvision's RandomResizedCrop.

    The area is uniform in `scale` of the whole, width over height is log-uniform in `ratio`. Up to
    ten boxes are drawn and the first that fits is used; otherwise the largest centred box with a
    ratio in range.
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
    """Draws the box of BYOL's crop (Grill et al. 2020), which MAE and HPM use for linear probes.

    Area and width over height are drawn as for `random_box`, but only once: a side that is too long
    is cut to that of the image (MAE, util/crop.py). So boxes are larger on average, and their width
    over height may be outside `ratio`.
    """
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w = min(max(1, round(math.sqrt(area * aspect))), width)
    h = min(max(1, round(math.sqrt(area / aspect))), height)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return Box(int(top), int(left), h, w)


def multi_scale_box(rng: np.random.Generator, height: int, width: int) -> Box:
    """Draws the box of TSN's multi-scale crop (Wang et al. 2016), used by VideoMAE's pre-training.

    Height and width are each one of `SCALES` times the short side, at most one step apart. The 13
    positions are the points of a 5 x 5 grid from edge to edge whose row and column are both even or
    both odd.
    """
    sides = [int(min(height, width) * scale) for scale in SCALES]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    h, w = (max(1, sides[side]) for side in pairs[rng.integers(len(pairs))])
    # every second of the 25 points, row by row, has row and column both even or both odd
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


def resampling(data: "Data") -> Image.Resampling:
    """Returns the resampling filter: bicubic for images, bilinear for videos.

    This follows the official codes; `data.interpolation` overrides it.
    """
    name = data.interpolation
    if name == "auto":
        name = "bilinear" if data.frames > 1 else "bicubic"
    return Image.Resampling[name.upper()]


def draw_view(rng: np.random.Generator, height: int, width: int, data: "Data") -> View:
    """Draws a training view of an image of `height` x `width` pixels."""
    box = CROPS[data.crop](rng, height, width, data)
    return View(box, bool(rng.random() < data.flip), data.image_size, method=resampling(data))


def spread_views(height: int, width: int, data: "Data", count: int) -> list[View]:
    """Returns evaluation views: the image is resized by `data.test_crop`, then cropped.

    The crops are spread along the longer side, from the left or top edge to the opposite one; a
    single crop is centred. Pixels equal torchvision's Resize and CenterCrop, except for `THIN`
    images: their resized versions would be gigantic, so only the crops are resized.
    """
    size = test_size((height, width), data)
    room = [side - wanted for side, wanted in zip(size, data.image_size, strict=True)]
    views = []
    for number in range(count):
        corner = [round(room[0] / 2), round(room[1] / 2)]
        if count > 1:
            longer = int(room[1] >= room[0])
            corner[longer] = room[longer] * number // (count - 1)
        window = Box(corner[0], corner[1], *data.image_size)
        views.append(View(Box(0, 0, height, width), False, size, window, resampling(data)))
    sides = zip(size, data.image_size, strict=True)
    thin = any(side * data.test_crop > THIN * wanted for side, wanted in sides)
    return [view.direct() for view in views] if thin else views


def test_size(found: tuple[int, ...], data: "Data") -> tuple[int, int]:
    """Returns the height and width to which an image of size `found` is resized for a test crop.

    The shorter side, relative to the crop's, becomes that of the crop over `data.test_crop`.
    """
    wanted = [int(side / data.test_crop) for side in data.image_size]
    short = 0 if found[0] * wanted[1] <= found[1] * wanted[0] else 1
    long = 1 - short
    size = list(wanted)
    size[long] = max(wanted[long], int(wanted[short] * found[long] / found[short]))
    return size[0], size[1]
