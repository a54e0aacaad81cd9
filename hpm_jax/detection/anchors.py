"""Anchors: boxes of some sizes and shapes at every place of every level of a pyramid."""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)  # height over width


def shapes_of(side: float, ratios: Sequence[float] = RATIOS) -> np.ndarray:
    """Returns boxes around the origin of the area `side ** 2`: float32 `[ratios, 4]`."""
    heights = side * np.sqrt(np.asarray(ratios, np.float64))
    widths = side**2 / heights
    return np.stack([-widths, -heights, widths, heights], axis=1).astype(np.float32) / 2


def level_anchors(
    grid: tuple[int, int], stride: int, side: float, ratios: Sequence[float] = RATIOS
) -> np.ndarray:
    """Returns the anchors of a level: float32 `[h * w * ratios, 4]`, raster order, ratio fastest.

    The anchor of row i and column j has its centre at `(j * stride, i * stride)`: no offset of half
    a stride (Lin et al. 2017, FPN; torchvision; ViTDet).

    Args:
        grid: height and width of the level.
        stride: pixels of the image between two places.
        side: root of an anchor's area in pixels.
    """
    row, column = np.meshgrid(*(np.arange(length) * stride for length in grid), indexing="ij")
    places = np.stack([column, row, column, row], axis=-1).reshape(-1, 1, 4)
    return (places + shapes_of(side, ratios)).reshape(-1, 4).astype(np.float32)
