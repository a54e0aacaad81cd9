"""Random erasing (Zhong et al. 2020): a box of noise in some images of a batch."""

import math

import jax
import jax.numpy as jnp
from jax import Array

AREA = (0.02, 1 / 3)  # of the box, as a share of the image
ASPECT = (0.3, 1 / 0.3)  # its height over its width
ATTEMPTS = 10  # boxes drawn for an image, of which the first that fits is erased


def erase(key: Array, images: Array, probability: float) -> Array:
    """Replaces a box by standard normal noise, anew for each pixel and channel.

    Args:
        images: `[B, H, W, C]` float32, normalised: the noise has their mean and deviation. In
            clips `[B, T, H, W, C]` the box is the same in every frame.
        probability: that an image is erased, drawn for each by itself; 0 turns erasing off.
    """
    if probability == 0:
        return images
    whether, box, noise = jax.random.split(key, 3)
    erased = jax.random.bernoulli(whether, probability, images.shape[:1])
    batch, *frames, height, width, _ = images.shape
    inside = erased[:, None, None] & _boxes(box, batch, height, width)
    inside = inside.reshape(batch, *[1] * len(frames), height, width, 1)
    return jnp.where(inside, jax.random.normal(noise, images.shape), images)


def _boxes(key: Array, batch: int, height: int, width: int) -> Array:
    """True in one box of each image, `[B, H, W]`; nowhere if no attempt fitted.

    Areas are uniform, aspects log-uniform, positions uniform.
    """
    of_area, of_aspect, of_top, of_left = jax.random.split(key, 4)
    drawn = (batch, ATTEMPTS)
    area = jax.random.uniform(of_area, drawn, minval=AREA[0], maxval=AREA[1]) * height * width
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
    """True on `lengths` `[B, 1]` places in a row, anywhere in `side` places: `[B, side]`."""
    starts = jax.random.randint(key, lengths.shape, 0, side - lengths + 1)
    places = jnp.arange(side)
    return (places >= starts) & (places < starts + lengths)
