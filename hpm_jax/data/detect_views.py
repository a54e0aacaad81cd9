"""Views for detection: large-scale jitter for training, and whole padded images for tests.

The steps and numbers are those of ViTDet's recipe in detectron2 (its `ResizeScale` and
`FixedSizeCrop`; Ghiasi et al. 2021, Simple copy-paste, section 3).
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.coco import Instances
from hpm_jax.data.geometry import Box, View
from hpm_jax.data.records import Example
from hpm_jax.data.segment_views import pad, padding
from hpm_jax.data.transforms import resampling
from hpm_jax.data.views import TrainView, apply_view, image_size
from hpm_jax.detection.rasters import Points, raster

if TYPE_CHECKING:
    from hpm_jax.config.detect import Detect, DetectAugment, DetectData

SMALLEST = 1.0  # pixels of the view: an object with a shorter side is left out


def detect_view(config: "Detect") -> TrainView:
    """Returns a function from a `Detected` example to a random view; see `random_view`."""
    cells = config.data.mask_cells if config.model.masks else 0
    return functools.partial(random_view, data=config.data, augment=config.augment, cells=cells)


def random_view(
    example: Example,
    rng: np.random.Generator,
    data: Any,
    augment: "DetectAugment",
    cells: int,
) -> Example:
    """Returns one view, drawn once and applied to the image and its objects.

    Args:
        data: the options of `DetectData`.
        cells: side of the array of a mask; 0 for no masks.

    Returns:
        `image` `[H, W, C]`; `size` float32 `[2]`, height and width without padding; for
        `data.max_objects` G objects `boxes` float32 `[G, 4]`, four zeros where there is no object,
        `classes` int32 `[G]`, and `masks` uint8 `[G, cells, cells]`, each over its box.
    """
    size = image_size(example["image"])
    view = draw_window(rng, size, data, augment)
    seen = apply_view({"image": example["image"]}, view.direct(), data)
    boxes, classes, masks = seen_objects(example["instances"], view, size, cells)
    if len(boxes) > data.max_objects:
        chosen = np.sort(rng.permutation(len(boxes))[: data.max_objects])
        boxes, classes, masks = boxes[chosen], classes[chosen], masks[chosen]
    missing = data.max_objects - len(boxes)
    return {
        "image": pad(seen["image"], data.image_size, padding(data)),
        "size": np.array(view.shape, np.float32),
        "boxes": np.pad(boxes, ((0, missing), (0, 0))),
        "classes": np.pad(classes, (0, missing)),
        "masks": np.pad(masks, ((0, missing), (0, 0), (0, 0))),
    }


def draw_window(
    rng: np.random.Generator, size: tuple[int, int], data: "DetectData", augment: "DetectAugment"
) -> View:
    """Draws scale, crop and flip of an image of `size` (height, width).

    At the scale 1 the whole image just fits into the crop.
    """
    scaled = fitted(size, data.image_size, rng.uniform(*augment.scale))
    crop = [min(whole, part) for whole, part in zip(data.image_size, scaled, strict=True)]
    top, left = (int(rng.integers(a - b + 1)) for a, b in zip(scaled, crop, strict=True))
    flip = bool(rng.random() < data.flip)
    return View(Box(0, 0, *size), flip, scaled, Box(top, left, *crop), resampling(data))


def fitted(size: tuple[int, int], limit: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """Returns `factor` times the largest size of the same aspect that fits into `limit`."""
    factor *= min(limit[0] / size[0], limit[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def seen_objects(
    instances: Instances, view: View, size: tuple[int, int], cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns boxes `[n, 4]`, classes `[n]` and masks `[n, cells, cells]` of the visible objects.

    Crowds are left out, as in detectron2. The box of an object with a mask that the crop cuts is
    that of the visible part of the mask, to the precision of its array.
    """
    instances = instances.take(~instances.crowds)
    boxes = view.apply_boxes(instances.boxes)
    masks = np.zeros((len(boxes), cells, cells), np.uint8)
    kept = is_visible(boxes)
    forward, backward = point_maps(view)
    whole = view._replace(window=None, flip=False).apply_boxes(instances.boxes)
    for number in np.flatnonzero(kept) if cells else ():
        mask = instances.masks[number]
        if mask is None:
            continue
        drawn = raster(mask, boxes[number], cells, size, forward, backward)
        if not np.allclose(_sides(boxes[number]), _sides(whole[number]), atol=1e-2):
            boxes[number] = tightened(boxes[number], drawn)
            kept[number] = is_visible(boxes[number])
            drawn = raster(mask, boxes[number], cells, size, forward, backward)
        masks[number] = drawn
    return boxes[kept], instances.classes[kept], masks[kept]


def is_visible(boxes: np.ndarray) -> Any:
    """Whether both sides of boxes `[..., 4]` have at least `SMALLEST` pixels: bool `[...]`."""
    return np.all(_sides(boxes) >= SMALLEST, axis=-1)


def _sides(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., 2:] - boxes[..., :2]


def tightened(box: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the smallest box around a mask `drawn` over `box`; four zeros if it is empty."""
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(4, np.float32)
    cells = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    unit = np.tile(_sides(box) / len(drawn), 2)
    return (np.tile(box[:2], 2) + cells * unit).astype(np.float32)


def point_maps(view: View) -> tuple[Points, Points]:
    """Returns the maps of points `[n, 2]` of (x, y) from an image to its view, and back."""
    scale = np.array([view.size[1] / view.box.width, view.size[0] / view.box.height])
    shift = np.array([view.window.left, view.window.top]) if view.window else np.zeros(2)
    width = view.shape[1]

    def turned(points: np.ndarray) -> np.ndarray:
        return np.stack([width - points[:, 0], points[:, 1]], axis=1) if view.flip else points

    def forward(points: np.ndarray) -> np.ndarray:
        return turned((points - [view.box.left, view.box.top]) * scale - shift)

    def backward(points: np.ndarray) -> np.ndarray:
        return (turned(points) + shift) / scale + [view.box.left, view.box.top]

    return forward, backward


def whole_view(example: Example, data: Any) -> Example:
    """Returns the whole image, fitted into `data.image_size` and padded at its bottom and right.

    Returns:
        `image` `[H, W, C]`, and `size` float32 `[2]`, height and width without padding.
    """
    size = image_size(example["image"])
    scaled = fitted(size, data.image_size)
    view = View(Box(0, 0, *size), False, scaled, method=resampling(data))
    image = apply_view({"image": example["image"]}, view, data)["image"]
    return {
        "image": pad(image, data.image_size, padding(data)),
        "size": np.array(scaled, np.float32),
    }
