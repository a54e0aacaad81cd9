"""Sliding windows over images of any size, and their logits put together again.

Everything after the network is linear up to the mean over views, so patch logits, 256 times fewer
than pixels, leave the device, and are enlarged on the host.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hpm_jax.data.geometry import Box, View
from hpm_jax.data.resizing import mirror, resize
from hpm_jax.data.segment_views import pad, padding, resized
from hpm_jax.data.transforms import resampling

ROWS = 64  # of the image, whose classes are chosen at a time


class Window(NamedTuple):
    """A window of one view of an image."""

    top: int
    left: int
    height: int  # of the part that is not padding
    width: int


class ImageView(NamedTuple):
    """An image at one scale, mirrored or not, in windows."""

    pixels: np.ndarray  # [h, w, C]
    flip: bool
    windows: list[Window]


def views_of(pixels: np.ndarray, config) -> list[ImageView]:
    """Returns every view of an image `[h, w, C]` that `config.evaluation` asks for."""
    data, scoring = config.data, config.evaluation
    views = []
    for factor in scoring.scales:
        size = resized(pixels.shape[:2], data, factor)
        seen = pixels
        if size != pixels.shape[:2]:
            seen = resize(pixels, size, method=resampling(data))
        windows = tile(size, data.image_size, scoring.stride)
        views.append(ImageView(seen, False, windows))
        if scoring.flip:
            views.append(ImageView(mirror(seen), True, windows))
    return views


def tile(size: tuple[int, int], window: tuple[int, int], stride: float) -> list[Window]:
    """Covers an image of `size` by windows, `stride` of a window apart, the last ones at its edges.

    The grid is that of MMSegmentation's `slide_inference`. A side that is shorter than the window
    has one, which is padded.
    """
    starts = []
    for side, length in zip(size, window, strict=True):
        step = max(1, int(length * stride))
        count = max(0, math.ceil((side - length) / step)) + 1
        starts.append([max(0, min(number * step, side - length)) for number in range(count)])
    height, width = (min(a, b) for a, b in zip(size, window, strict=True))
    return [Window(top, left, height, width) for top in starts[0] for left in starts[1]]


def cut(view: ImageView, window: Window, data) -> np.ndarray:
    """Returns the pixels of a window, padded with the mean colour: `[H, W, C]`."""
    top, left, height, width = window
    part = view.pixels[top : top + height, left : left + width]
    return pad(part, data.image_size, padding(data))


def adjacent_windows(
    pixels: np.ndarray, values: np.ndarray, data, fill: np.number
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts an image into adjacent windows `[W, H, W, C]`, and values of its pixels `[W, H, W]`.

    The image is resized as for tests; the values follow by nearest neighbour.

    Args:
        pixels: `[h, w, C]`.
        values: `[h, w]`, such as a label map.
        fill: the value of pixels beyond the image.
    """
    found = pixels.shape[:2]
    size = resized(found, data, 1.0)
    values = View(Box(0, 0, *found), False, size).apply_label_map(values)
    if size != found:
        pixels = resize(pixels, size, method=resampling(data))
    windows = tile(size, data.image_size, 1.0)
    view = ImageView(pixels, False, windows)
    parts = [
        pad(values[top : top + height, left : left + width], data.image_size, fill)
        for top, left, height, width in windows
    ]
    return np.stack([cut(view, window, data) for window in windows]), np.stack(parts)


class Canvas:
    """The logits of one view of an image, collected from its windows."""

    def __init__(self, view: ImageView, window: tuple[int, int]):
        self.view, self.window = view, window
        self.parts: list[tuple[Window, np.ndarray]] = []

    def add(self, window: Window, logits: np.ndarray) -> None:
        """Adds the patch logits `[h, w, classes]` of a window."""
        self.parts.append((window, logits))

    @property
    def is_whole(self) -> bool:
        """Whether all windows are there."""
        return len(self.parts) == len(self.view.windows)

    def logits(self) -> np.ndarray:
        """Returns the mean over the windows that see a pixel, `[h, w, classes]`, not mirrored."""
        size = self.view.pixels.shape[:2]
        sums = np.zeros((*size, self.parts[0][1].shape[-1]), np.float32)
        counts = np.zeros((*size, 1), np.float32)
        for (top, left, height, width), logits in self.parts:
            place = slice(top, top + height), slice(left, left + width)
            sums[place] += enlarge(logits, self.window)[:height, :width]
            counts[place] += 1
        sums /= counts
        return sums[:, ::-1] if self.view.flip else sums


def choose(canvases: list[Canvas], size: tuple[int, int]) -> np.ndarray:
    """Returns the class of each pixel of an image of `size`, int16 `[*size]`.

    Logits of each view are enlarged or reduced to that size; several views are averaged after the
    softmax, as in MMSegmentation.
    """
    views = [canvas.logits() for canvas in canvases]
    chosen = np.empty(size, np.int16)
    for rows in _parts(size[0]):
        votes: np.ndarray | float = 0.0
        for view in views:
            logits = sample(view, rows, size)
            votes = votes + (softmax(logits) if len(views) > 1 else logits)
        chosen[rows] = np.asarray(votes).argmax(axis=-1)
    return chosen


def _parts(length: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, length)) for start in range(0, length, ROWS))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def enlarge(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges `[h, w, classes]` to `[*size, classes]` on the host, as `enlarge_logits` does."""
    rows, columns = (interpolation(a, b) for a, b in zip(logits.shape[:2], size, strict=True))
    wide = np.matmul(columns, logits).reshape(len(logits), -1)  # the few rows first
    return np.matmul(rows, wide).reshape(*size, -1)


@functools.lru_cache(maxsize=64)
def interpolation(length: int, wanted: int) -> np.ndarray:
    """Returns the matrix `[wanted, length]` of linear interpolation between pixel centres."""
    matrix = np.zeros((wanted, length), np.float32)
    low, high, share = taps(length, wanted)
    np.add.at(matrix, (np.arange(wanted), low), 1 - share)
    np.add.at(matrix, (np.arange(wanted), high), share)
    return matrix


def taps(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two neighbours of each of `wanted` places, and the weight of the second."""
    places = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
    low = np.floor(places).astype(int)
    return low, np.minimum(low + 1, length - 1), (places - low).astype(np.float32)


def sample(logits: np.ndarray, rows: slice, size: tuple[int, int]) -> np.ndarray:
    """Returns some rows of `[h, w, classes]` after bilinear resizing to `[*size, classes]`."""
    if logits.shape[:2] == tuple(size):
        return logits[rows]
    low, high, share = (tap[rows] for tap in taps(logits.shape[0], size[0]))
    share = share[:, None, None]
    part = logits[low] * (1 - share) + logits[high] * share
    low, high, share = taps(logits.shape[1], size[1])
    return part[:, low] * (1 - share[:, None]) + part[:, high] * share[:, None]
