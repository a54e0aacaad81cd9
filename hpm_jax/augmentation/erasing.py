"""Random erasing (Zhong et al. 2020) by the rules of timm: boxes in some images of a batch."""

import math

import jax
import jax.numpy as jnp
from jax import Array

AREA = (0.02, 1 / 3)  # of all boxes of an image, as a fraction of it
ASPECT = (0.3, 1 / 0.3)  # of a box, its height over its width
ATTEMPTS = 10  # number of candidates per box; the first that fits is erased
# The fill of a box: standard normal noise per pixel and channel, zeros (the mean of the data), or
# one colour per box, standard normal in each channel.
ERASE_MODES = ("pixel", "const", "rand")


def erase(
    key: Array, images: Array, probability: float, mode: str = "pixel", count: int = 1
) -> Array:
    """Replaces boxes of some images.

    Args:
        images: `[B, H, W, C]` float32, normalised, like the noise. In clips `[B, T, H, W, C]` a box
            is at the same place in every frame; its noise or colour differs between frames.
        probability: probability of erasing, drawn independently for each image; 0 for none.
        mode: fill of a box, a name in `ERASE_MODES`.
        count: largest number of boxes; an image has 1 to `count` boxes, uniformly, which share the
            area of one.
    """
    if probability == 0:
        return images
    whether, how_many, box, noise = jax.random.split(key, 4)
    batch, *frames, height, width, channels = images.shape
    erased = jax.random.bernoulli(whether, probability, (batch,))
    counts = jax.random.randint(how_many, (batch,), 1, count + 1)
    pixels = jax.random.normal(noise, images.shape) if mode == "pixel" else None
    for number in range(count):
        inside = _boxes(jax.random.fold_in(box, number), counts, height, width)
        inside &= (erased & (number < counts))[:, None, None]
        inside = inside.reshape(batch, *[1] * len(frames), height, width, 1)
        if mode == "rand":
            shape = (batch, *frames, 1, 1, channels)
            filling = jax.random.normal(jax.random.fold_in(noise, number), shape)
        else:
            filling = jnp.zeros(()) if pixels is None else pixels
        images = jnp.where(inside, filling, images)
    return images


def _boxes(key: Array, counts: Array, height: int, width: int) -> Array:
    """Draws one box per image, `[B, H, W]` bool; empty if no attempt fits.

    Areas are uniform, aspects log-uniform, positions uniform.

    Args:
        counts: `[B]` number of boxes that share the area of an image.
    """
    of_area, of_aspect, of_top, of_left = jax.random.split(key, 4)
    drawn = (len(counts), ATTEMPTS)
    area = jax.random.uniform(of_area, drawn, minval=AREA[0], maxval=AREA[1]) * height * width
    area = area / counts[:, None].astype(jnp.float32)
    low, high = (math.log(aspect) for aspect in ASPECT)
    aspect = jnp.exp(jax.random.uniform(of_aspect, drawn, minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    rows = _spans(of_top, jnp.take_along_axis(heights, first, axis=1), height)
    columns = _spans(of_left, jnp.take_along_axis(widths, first, axis=1), width)
    return rows[:, :, None] & columns[:, None, :] & fits.any(axis=1)[:, None, None]


def _spans(key: Array, lengths: Array, side: int) -> Array:
    """Returns `[B, side]` bool: an interval of `lengths` `[B, 1]` at a random position."""
    starts = jax.random.randint(key, lengths.shape, 0, side - lengths + 1)
    places = jnp.arange(side)
    return (places >= starts) & (places < starts + lengths)
