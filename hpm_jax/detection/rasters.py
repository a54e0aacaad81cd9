"""Annotated masks as arrays: polygons and run lengths, over an image or over a box."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hpm_jax.extras import import_extra

Mask = Any  # a list of polygons [x, y, x, y, ...], or an RLE {"size", "counts"}
Points = Callable[[np.ndarray], np.ndarray]  # maps points [n, 2] of (x, y)


def pycocotools(what: str) -> Any:
    """Returns the module `pycocotools.mask`.

    Raises:
        MissingPackage: without the extra "coco".
    """
    return import_extra("pycocotools.mask", "coco", what, "pycocotools")


def run_lengths(mask: Mask, size: tuple[int, int]) -> dict[str, Any]:
    """Returns a mask of an image of `size` (height, width) as a compressed RLE."""
    library = pycocotools("a mask")
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            return library.frPyObjects(mask, *size)
        return mask
    return library.merge(library.frPyObjects(mask, *size))


def decode(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels of a mask, bool `[height, width]`."""
    return pycocotools("a mask").decode(run_lengths(mask, size)).astype(bool)


def raster(
    mask: Mask,
    box: np.ndarray,
    resolution: int,
    size: tuple[int, int],
    forward: Points,
    backward: Points,
) -> np.ndarray:
    """Returns the part of a mask in a box of a view, bool `[resolution, resolution]`.

    Polygons are drawn anew at that resolution; run lengths are read at the centres of its cells.

    Args:
        mask: of the image.
        box: (left, top, right, bottom) in pixels of the view.
        size: height and width of the image.
        forward, backward: from points of the image to points of the view, and back.
    """
    unit = np.maximum((box[2:] - box[:2]) / resolution, 1e-6)
    if isinstance(mask, dict):
        cells = (np.arange(resolution) + 0.5)[:, None] * unit + box[:2]
        columns, rows = np.meshgrid(cells[:, 0], cells[:, 1])
        points = np.floor(backward(np.stack([columns.ravel(), rows.ravel()], axis=1))).astype(int)
        points = points.clip(0, np.array(size[::-1]) - 1)
        pixels = decode(mask, size)[points[:, 1], points[:, 0]]
        return pixels.reshape(resolution, resolution)
    drawn = []
    for polygon in mask:
        points = (forward(np.array(polygon, np.float64).reshape(-1, 2)) - box[:2]) / unit
        drawn.append(points.ravel().tolist())
    return decode(drawn, (resolution, resolution))
