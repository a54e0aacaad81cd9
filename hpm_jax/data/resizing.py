"""Resizes images as Pillow does, by a compiled extension where it is installed."""

import functools
from typing import Any

import numpy as np
from PIL import Image

from hpm_jax.extras import compiled

COMPILED = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
# From (height, width), new and old, to whether columns are resized before rows; the order changes
# the last bit. Pillow 13 chooses the cheaper one, older versions always resize rows first.
ORDERS = (
    lambda new, old: new[0] < old[0] and 2 * (old[1] - new[1]) < old[0] - new[0],
    lambda new, old: False,
)


def resize(
    array: np.ndarray,
    size: tuple[int, int],
    box: tuple | None = None,
    method: Image.Resampling = Image.Resampling.BICUBIC,
    flip: bool = False,
) -> np.ndarray:
    """Resizes with antialiasing, as PIL and torchvision do: `[h, w, C]` to `[*size, C]`.

    uint8 stays uint8; other numbers become float32.

    Args:
        box: the part to resize, (left, top, right, bottom), fractions allowed; None for all.
        flip: whether the result is mirrored.
    """
    if array.dtype != np.uint8:
        array = array.astype(np.float32, copy=False)
    if array.shape[-1] != 1 and (array.shape[-1] != 3 or array.dtype != np.uint8):
        bands = [array[..., c : c + 1] for c in range(array.shape[-1])]
        channels = [resize(band, size, box, method, flip) for band in bands]
        return np.concatenate(channels, axis=-1)
    extension = _extension() if array.dtype == np.uint8 and method in COMPILED else None
    if extension is None:
        resized = _with_pillow(array, size, box, method)
        return mirror(resized) if flip else resized
    return extension(array, size, box, method, flip)


def mirror(image: np.ndarray) -> np.ndarray:
    """Flips horizontally, `[..., w, C]`; whole pixels are copied, not single bytes."""
    return np.take(image, np.arange(image.shape[-2])[::-1], axis=-2)


def _with_pillow(
    array: np.ndarray, size: tuple[int, int], box: tuple | None, method: Image.Resampling
) -> np.ndarray:
    array = np.ascontiguousarray(array)
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    image = image.resize(size[::-1], method, box)
    return np.asarray(image).reshape(*size, array.shape[-1])


def _with_extension(
    array: np.ndarray,
    size: tuple[int, int],
    box: tuple | None,
    method: Image.Resampling,
    flip: bool,
    module: Any,
    columns_first: Any,
) -> np.ndarray:
    height, width, channels = array.shape
    if array.strides[1:] != (channels, 1):
        array = np.ascontiguousarray(array)
    resized = np.empty((*size, channels), np.uint8)
    cubic = method == Image.Resampling.BICUBIC
    first = columns_first(size, (height, width))
    module.resize(array, resized, box or (0, 0, width, height), cubic, flip, first)
    return resized


@functools.cache
def _extension() -> Any | None:
    """Returns the compiled resize, in the order of the installed Pillow; None if it differs."""
    module = compiled("hpm_jax.data._resize")
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for columns_first in ORDERS if module else ():
        resized = functools.partial(
            _with_extension, flip=False, module=module, columns_first=columns_first
        )
        # one dimension shrinks and the other grows; both shrink, by more or less
        checks = [(size, m) for size in ((20, 45), (50, 20), (13, 19), (33, 28)) for m in COMPILED]
        box = (2.25, 3, 28, 38.5)
        if all(
            np.array_equal(resized(image, size, box, m), _with_pillow(image, size, box, m))
            for size, m in checks
        ):
            return functools.partial(_with_extension, module=module, columns_first=columns_first)
    return None
