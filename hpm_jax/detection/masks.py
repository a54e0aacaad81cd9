"""Masks relative to boxes: targets of the mask head, and predictions pasted into images."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from hpm_jax.detection.boxes import sides
from hpm_jax.detection.roi_align import roi_align
from hpm_jax.tokens import AnyArray

SAMPLES = 2  # of a mask along a side of a target's pixel


def mask_targets(
    masks: AnyArray,
    objects: Float[AnyArray, "K 4"],
    boxes: Float[AnyArray, "K 4"],
    size: int,
) -> Bool[Array, "K size size"]:
    """Cuts the masks of objects to proposals: bool `[K, size, size]`.

    Args:
        masks: `[K, R, R]` of 0 and 1, each over the box of its object.
        objects: boxes of the objects, in pixels of the image.
        boxes: the proposals. What lies outside the object's box is not part of its mask.
    """
    resolution = masks.shape[1]
    unit = sides(objects) / resolution
    within = (boxes.reshape(-1, 2, 2) - objects[:, None, :2]) / unit[:, None]
    # an edge of zeros, so that samples beyond a mask are not those of its edge
    padded = jnp.pad(masks.astype(jnp.float32), ((0, 0), (1, 1), (1, 1)))
    corners = within.reshape(-1, 4) + 1.0

    def cut(mask: Array, box: Array) -> Array:
        first = jnp.zeros(1, jnp.int32)
        return roi_align([mask[..., None]], box[None], first, [1.0], size, SAMPLES)[0, ..., 0]

    return jax.vmap(cut)(padded, corners) >= 0.5


def paste(
    probabilities: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """Pastes the mask of a box into an image: bool `[height, width]`.

    Every pixel whose centre lies in the box is sampled bilinearly between the centres of the mask's
    pixels, with 0 beyond its edge (PyTorch's `grid_sample`, `align_corners=False`), then
    thresholded. Boxes that are empty or outside give an empty mask.

    Args:
        probabilities: float `[M, M]` over the box.
        box: (left, top, right, bottom) in pixels.
        size: height and width of the image.
    """
    pasted = np.zeros(size, bool)
    left, top, right, bottom = (float(edge) for edge in box)
    if not (np.isfinite(box).all() and right > left and bottom > top):
        return pasted
    rows, down = _centres(top, bottom, size[0], probabilities.shape[0])
    columns, across = _centres(left, right, size[1], probabilities.shape[1])
    if rows.start < rows.stop and columns.start < columns.stop:
        values = down @ probabilities.astype(np.float32) @ across.T
        pasted[rows, columns] = values >= threshold
    return pasted


def _centres(first: float, last: float, length: int, cells: int) -> tuple[slice, np.ndarray]:
    """Pixels of an axis with a centre between `first` and `last`, and their weights of the cells.

    Returns:
        The pixels, and float32 `[pixels, cells]`.
    """
    begin = min(max(0, int(np.ceil(first - 0.5))), length)
    end = max(begin, min(length, int(np.floor(last - 0.5)) + 1))
    place = (np.arange(begin, end) + 0.5 - first) / (last - first) * cells - 0.5
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)))
    return slice(begin, end), weights.astype(np.float32)
