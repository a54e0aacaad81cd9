"""Masks of coloured noise (ColorMAE, Hinojosa et al. 2024). Each frame of a clip has its own noise.

White noise W on the grid of units is filtered by a Gaussian G, circularly, and the units with the
largest values stay visible. The official code cuts its masks from noise images that are released
as data, without the widths of the filters: the widths here are options, in units. ColorMAE reports
the best results for green noise. At ratio 0.75 on 14 x 14 units, the defaults give this many pairs
of visible neighbours in a frame: red 71, green 29, random 22, blue 17, purple 15.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.fields import option
from hpm_jax.masking.frames import Frames, Spatial, in_order
from hpm_jax.plugs import register


def width(default: float, help: str) -> float:
    """Returns an option for the standard deviation of a Gaussian, in units."""
    return option(default, help, low=0.1, high=4.0)


class Coloured(Spatial):
    """Base class of masks by linearly filtered white noise."""

    @abc.abstractmethod
    def colour(self, noise: Array) -> Array:
        """Filters white noise `[N, h, w]`."""

    def frame_scores(self, key: Array, frames: Frames) -> Array:
        """Returns the negative filtered noise: the largest values stay visible."""
        return -self.colour(jax.random.normal(key, frames[:3]))


@register("red")
class Red(Coloured):
    """Low frequencies, G*W: large visible areas."""

    width: float = width(2.0, "width of the Gaussian, in units")

    def colour(self, noise: Array) -> Array:
        """Returns low-pass filtered noise."""
        return blur(noise, self.width)


@register("blue")
class Blue(Coloured):
    """High frequencies, W - G*W: visible units keep apart."""

    width: float = width(1.0, "width of the Gaussian, in units")

    def colour(self, noise: Array) -> Array:
        """Returns high-pass filtered noise."""
        return noise - blur(noise, self.width)


@dataclasses.dataclass(frozen=True, repr=False)
class Band(Coloured):
    """Base class of masks by the band between two Gaussians."""

    narrow: float = width(0.5, "width of the Gaussian that limits the high frequencies, in units")
    wide: float = width(2.0, "width of the Gaussian that limits the low frequencies, in units")

    def check(self, config: Any) -> None:
        """Checks that the two widths are in order."""
        in_order(config, "narrow, wide", self.narrow, self.wide, equal=False)

    def band(self, noise: Array) -> Array:
        """Returns G1*W - G2*W, the middle frequencies."""
        return blur(noise, self.narrow) - blur(noise, self.wide)


@register("green")
class Green(Band):
    """Middle frequencies, G1*W - G2*W: small visible areas, evenly spread."""

    def colour(self, noise: Array) -> Array:
        """Returns band-pass filtered noise."""
        return self.band(noise)


@register("purple")
class Purple(Band):
    """Low and high frequencies, W minus green noise."""

    def colour(self, noise: Array) -> Array:
        """Returns band-stop filtered noise."""
        return noise - self.band(noise)


def blur(noise: Array, width: float) -> Array:
    """Convolves each frame `[N, h, w]` with a circular Gaussian, by one matrix for each axis."""
    rows, columns = (jnp.asarray(circulant(side, width)) for side in noise.shape[1:])
    return jnp.einsum("nij,ri,cj->nrc", noise, rows, columns, precision="highest")


def circulant(side: int, width: float) -> np.ndarray:
    """Returns the matrix of circular convolution with a Gaussian, float32 `[side, side]`."""
    reach = side * int(np.ceil(8 * width / side))  # a multiple of the side, at least 8 widths
    distance = np.arange(-reach, reach + side)
    kernel = np.exp(-(distance**2) / (2 * width**2)).reshape(-1, side).sum(axis=0)  # wrapped
    kernel = kernel / kernel.sum()
    index = np.arange(side)
    return kernel[(index[:, None] - index) % side].astype(np.float32)
