"""Views: the same crop, flip and size for the pixels, label map and boxes of an image."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from hpm_jax.data.jpeg import Part
from hpm_jax.data.resizing import mirror, resize


class Box(NamedTuple):
    """A part of an image in pixels, possibly fractional."""

    top: float
    left: float
    height: float
    width: float


class View(NamedTuple):
    """A crop of an image: a box, resized, optionally cut again, optionally mirrored."""

    box: Box
    flip: bool  # horizontal flip, applied last
    size: tuple[int, int]  # height and width to which the box is resized
    window: Box | None = None  # part of the resized box to keep, in whole pixels; None for all
    method: Image.Resampling = Image.Resampling.BICUBIC

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the view."""
        return self.size if self.window is None else (int(self.window[2]), int(self.window[3]))

    def scaled(self, factor: float) -> "View":
        """Returns the same view of an image that was decoded at `factor` of its size."""
        return self._replace(box=Box(*(edge * factor for edge in self.box)))

    def direct(self) -> "View":
        """Returns the same view without a window, so that only the visible part is resized."""
        if self.window is None:
            return self
        down, across = self.box.height / self.size[0], self.box.width / self.size[1]
        top, left, height, width = self.window
        box = Box(
            self.box.top + top * down, self.box.left + left * across, height * down, width * across
        )
        return self._replace(box=box, size=(int(height), int(width)), window=None)

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Applies the view to an image: `[h, w, C]` to `[*shape, C]`, antialiased; see `resize`."""
        if self.window is None:
            return cut(image, self.box, self.size, self.method, self.flip)
        return self.crop(cut(image, self.box, self.size, self.method))

    def part(self) -> Part:
        """Returns the pixels of the image that the view reads."""
        return whole_pixels(self.box)

    def within(self, part: Part) -> "View":
        """Returns the same view of a part of the image."""
        return self._replace(
            box=self.box._replace(top=self.box.top - part.top, left=self.box.left - part.left)
        )

    def crop(self, resized: np.ndarray) -> np.ndarray:
        """Applies window and flip to the resized box `[*size, C]`."""
        if self.window is not None:
            top, left, height, width = map(int, self.window)
            resized = resized[top : top + height, left : left + width]
        return mirror(resized) if self.flip else resized

    def apply_label_map(self, labels: np.ndarray) -> np.ndarray:
        """Applies the view to integers: `[..., h, w]` to `[..., *shape]`, by nearest neighbour."""
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
        """Applies the view to boxes `[..., 4]` (left, top, right, bottom) in pixels: float32.

        Boxes are clipped to the view. A box outside the view becomes four zeros.
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


def apply_all(views: Sequence[View], image: np.ndarray) -> list[np.ndarray]:
    """Applies views that differ only in their windows, or have none, to an image `[h, w, C]`."""
    if views[0].window is None:
        return [view.apply_image(image) for view in views]
    resized = views[0]._replace(window=None, flip=False).apply_image(image)  # once for all windows
    return [view.crop(resized) for view in views]


def whole_pixels(box: Box) -> Part:
    """Returns the smallest part of an image that has all of a box."""
    top, left = math.floor(box.top), math.floor(box.left)
    bottom, right = math.ceil(box.top + box.height), math.ceil(box.left + box.width)
    return Part(top, left, bottom - top, right - left)


def cut(
    image: np.ndarray,
    box: Box,
    size: tuple[int, int],
    method: Image.Resampling = Image.Resampling.BICUBIC,
    flip: bool = False,
) -> np.ndarray:
    """Returns the part of `image` `[h, w, C]` in `box`, resized, perhaps mirrored: `[*size, C]`."""
    # cut whole pixels first, so that pixels outside the crop have no influence, then resize
    part = whole_pixels(box)
    inner = (box.left - part.left, box.top - part.top)
    edges = (*inner, inner[0] + box.width, inner[1] + box.height)
    return resize(part.of(image), size, edges, method, flip)
