"""Training views for segmentation: scale jitter, balanced crops, flips and photometric distortion.

The steps and numbers are those of MMSegmentation's recipes (its `RandomResize`, `RandomCrop` and
`PhotoMetricDistortion`), which MAE and HPM use on ADE20K.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hpm_jax.data.geometry import Box, View
from hpm_jax.data.records import Example
from hpm_jax.data.segmented import IGNORED
from hpm_jax.data.transforms import resampling
from hpm_jax.data.views import TrainView, apply_view, image_size

if TYPE_CHECKING:
    from hpm_jax.config.segment import SegmentAugment, SegmentData

TRIES = 10  # crops that are drawn until one is balanced
LONGEST = 4  # a side is resized to at most so many times `short_side` (2048 for 512)


def segment_view(data: "SegmentData", augment: "SegmentAugment") -> TrainView:
    """Returns a function from a `Segmented` example to a random view.

    The view has an image `[H, W, C]` of `data.image_size`, and a label map int16 `[H, W]`.
    """
    return functools.partial(random_view, data=data, augment=augment)


def random_view(
    example: Example, rng: np.random.Generator, data: "SegmentData", augment: "SegmentAugment"
) -> Example:
    """Returns one view, drawn once and applied to the image and its label map."""
    view = draw_window(rng, example["label_map"], image_size(example["image"]), data, augment)
    seen = apply_view(example, view, data)
    image = distort(rng, seen["image"]) if augment.photometric else seen["image"]
    return {
        "image": pad(image, data.image_size, padding(data)),
        "label_map": pad(seen["label_map"], data.image_size, np.int16(IGNORED)),
    }


def draw_window(
    rng: np.random.Generator,
    labels: np.ndarray,
    size: tuple[int, int],
    data: "SegmentData",
    augment: "SegmentAugment",
) -> View:
    """Draws scale, crop and flip; a crop in which one class has too many pixels is drawn again.

    Up to `TRIES` crops are drawn, and the last one is taken in any case. Pixels that are left out
    do not count.

    Args:
        labels: class indices `[h, w]` of the whole image.
        size: height and width of the image.
    """
    scaled = resized(size, data, rng.uniform(*augment.scale))
    crop = (min(data.image_size[0], scaled[0]), min(data.image_size[1], scaled[1]))
    whole = View(Box(0, 0, *size), False, scaled, method=resampling(data))
    for _ in range(TRIES):
        top, left = (int(rng.integers(a - b + 1)) for a, b in zip(scaled, crop, strict=True))
        view = whole._replace(window=Box(top, left, *crop)).direct()
        if augment.max_share >= 1 or is_balanced(view.apply_label_map(labels), augment.max_share):
            break
    return view._replace(flip=bool(rng.random() < data.flip))


def is_balanced(labels: np.ndarray, max_share: float) -> bool:
    """Whether there are two classes or more, none with `max_share` of the pixels that count."""
    counts = np.bincount(labels[labels >= 0])
    return bool((counts > 0).sum() > 1 and counts.max() < max_share * counts.sum())


def resized(size: tuple[int, int], data: "SegmentData", factor: float) -> tuple[int, int]:
    """Returns height and width at `factor` of the size at which images are seen.

    That size is the image's own, or with `data.short_side` the one whose short side has that
    length, unless the long side then exceeds `LONGEST` times as much.
    """
    if data.short_side:
        factor *= min(data.short_side / min(size), LONGEST * data.short_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def padding(data: "SegmentData") -> np.ndarray:
    """Returns the mean colour `[C]`, which normalisation turns into zeros."""
    mean = np.array(data.mean)
    return mean.astype(np.float32) if data.value_range else np.rint(255 * mean).astype(np.uint8)


def pad(array: np.ndarray, size: tuple[int, int], fill: np.ndarray | np.number) -> np.ndarray:
    """Lengthens `[h, w, ...]` at its bottom and right to `[*size, ...]` with `fill`."""
    if array.shape[:2] == tuple(size):
        return array
    padded = np.empty((*size, *array.shape[2:]), array.dtype)
    padded[...] = fill
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 0.1  # hue: of the circle


def distort(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, each half the time: uint8 `[h, w, C]`.

    Contrast comes before or after saturation and hue, which images of one channel do not have.
    Every step rounds to 8 bits. This is SSD's augmentation (Liu et al. 2016).
    """
    drawn = rng.random(5) < 0.5
    beta, alpha = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(*CONTRAST)
    saturation, hue = rng.uniform(*SATURATION), rng.uniform(-HUE, HUE)
    brightness, contrast, early, saturate, turn = drawn
    if brightness:
        image = _linear(image, 1.0, beta)
    if contrast and early:
        image = _linear(image, alpha, 0.0)
    if image.shape[-1] == 3 and (saturate or turn):
        bands = [np.asarray(band) for band in Image.fromarray(image).convert("HSV").split()]
        if saturate:
            bands[1] = _linear(bands[1], saturation, 0.0)
        if turn:
            bands[0] = bands[0] + np.uint8(round(256 * hue) % 256)  # wraps around
        merged = Image.merge("HSV", [Image.fromarray(band) for band in bands])
        image = np.asarray(merged.convert("RGB"))
    if contrast and not early:
        image = _linear(image, alpha, 0.0)
    return image


def _linear(image: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    table = np.clip(np.rint(np.arange(256) * alpha + beta), 0, 255).astype(np.uint8)
    return table[image]
