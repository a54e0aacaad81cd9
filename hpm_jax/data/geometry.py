"""A view of an image: the same crop, flip and size for its pixels, its label map and its boxes."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image


class Box(NamedTuple):
    """A part of an image, in pixels; in fractions of them once the image is scaled."""

    top: float
    left: float
    height: float
    width: float


class View(NamedTuple):
    """What is seen of an image: a box of it, resized, perhaps cut again, perhaps mirrored."""

    box: Box
    flip: bool  # left and right are exchanged, at the end
    size: tuple[int, int]  # height and width that the box is resized to
    window: Box | None = None  # the part of the resized box that stays, whole pixels; None for all
    method: Image.Resampling = Image.Resampling.BICUBIC

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is seen."""
        return self.size if self.window is None else (int(self.window[2]), int(self.window[3]))

    def scaled(self, factor: float) -> "View":
        """The same view of an image that was decoded at `factor` of its size."""
        return self._replace(box=Box(*(edge * factor for edge in self.box)))

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 `[h, w, C]` to `[*shape, C]`, antialiased."""
        return self.crop(cut(image, self.box, self.size, self.method))

    def crop(self, resized: np.ndarray) -> np.ndarray:
        """What is left to do with the box `[*size, C]`: window and flip."""
        if self.window is not None:
            top, left, height, width = map(int, self.window)
            resized = resized[top : top + height, left : left + width]
        return mirror(resized) if self.flip else resized

    def apply_label_map(self, labels: np.ndarray) -> np.ndarray:
        """Integers `[..., h, w]` to `[..., *shape]`: each the one at the centre of its pixel."""
        (top, left, height, width), (h, w) = self.box, self.size
        rows = np.floor(top + (np.arange(h) + 0.5) * height / h).astype(int)
        columns = np.floor(left + (np.arange(w) + 0.5) * width / w).astype(int)
        if self.window is not None:
            y, x, inner_height, inner_width = map(int, self.window)
            rows, columns = rows[y : y + inner_height], columns[x : x + inner_width]
        if self.flip:
            columns = columns[::-1]
        return labels[..., rows[:, None], columns]

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `[..., 4]` of (left, top, right, bottom) in pixels to float32 `[..., 4]`.

        They are clipped to what is seen. A box of which nothing is seen becomes four zeros.
        """
        scale = np.array([self.size[1] / self.box.width, self.size[0] / self.box.height] * 2)
        moved = (boxes - np.array([self.box.left, self.box.top] * 2)) * scale
        if self.window is not None:
            moved = moved - np.array([self.window.left, self.window.top] * 2)
        height, width = self.shape
        moved = moved.clip(0, np.array([width, height] * 2))
        if self.flip:
            left, top, right, bottom = np.moveaxis(moved, -1, 0)
            moved = np.stack([width - right, top, width - left, bottom], axis=-1)
        seen = (moved[..., :2] < moved[..., 2:]).all(axis=-1, keepdims=True)
        return np.where(seen, moved, 0).astype(np.float32)


def resize(
    array: np.ndarray,
    size: tuple[int, int],
    box: tuple | None = None,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Antialiased, as PIL and torchvision do it: `[h, w, C]` to `[*size, C]`.

    Args:
        box: the part to resize, (left, top, right, bottom), fractions allowed; None for all.
    """
    if array.shape[-1] not in (1, 3):
        bands = [array[..., c : c + 1] for c in range(array.shape[-1])]
        channels = [resize(band, size, box, method) for band in bands]
        return np.concatenate(channels, axis=-1)
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    image = image.resize(size[::-1], method, box)
    return np.asarray(image).reshape(*size, array.shape[-1])


def mirror(image: np.ndarray) -> np.ndarray:
    """Left and right exchanged, `[..., w, C]`: whole pixels are copied, not one byte at a time."""
    return np.take(image, np.arange(image.shape[-2])[::-1], axis=-2)


def cut(
    image: np.ndarray,
    box: Box,
    size: tuple[int, int],
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """The part of `image` `[h, w, C]` in `box`, resized: `[*size, C]`."""
    # first whole pixels, so that nothing outside the crop shines in, then the exact fraction
    top, left = math.floor(box.top), math.floor(box.left)
    bottom, right = math.ceil(box.top + box.height), math.ceil(box.left + box.width)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    inner = (box.left - left, box.top - top)
    return resize(part, size, (*inner, inner[0] + box.width, inner[1] + box.height), method)
