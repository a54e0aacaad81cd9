"""Colour jitter: random brightness, contrast and saturation, as in torchvision."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

_ENHANCEMENTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def draw_color_jitter(
    rng: np.random.Generator, strength: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Draws a change of colours for an image, or for all frames of a clip.

    Three factors, uniform from `1 - strength` (0 at least) to `1 + strength`, in a random order
    (torchvision's ColorJitter, which timm builds with the same strength for all three).

    Returns:
        A function from uint8 `[h, w, C]` to the same, grey or colour; saturation does not change
        grey images.
    """
    order = rng.permutation(len(_ENHANCEMENTS))
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, len(order))

    def change(image: np.ndarray) -> np.ndarray:
        grey = image.shape[-1] == 1
        picture = Image.fromarray(image[..., 0] if grey else image)
        for number in order:
            picture = _ENHANCEMENTS[number](picture).enhance(factors[number])
        return np.asarray(picture).reshape(image.shape)

    return change
