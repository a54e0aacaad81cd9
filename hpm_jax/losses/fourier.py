"""A loss in the frequency domain, which weighs frequencies by how badly they are rebuilt."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray, unpatchify


@register("fourier")
class Fourier(Term):
    """The focal frequency loss of the rebuilt image (Jiang et al. 2021; A2MIM, Li et al. 2023).

    Predictions are pasted into the image; both images go through the orthonormal 2D Fourier
    transform, frame by frame and channel by channel. Since the transform is linear, it is applied
    to their difference. A2MIM mixes half of its own prediction, without gradient, into the visible
    pixels; the decoder here predicts hidden patches alone, so visible pixels are the true ones and
    differ by 0.
    """

    weight: float = option(0.1, "weight of the term in the loss", low=-1e6, high=1e6)
    alpha: float = option(1.0, "exponent of the weights of frequencies", low=0, high=10)
    average: bool = option(True, "whether spectra are averaged over the batch first")
    log: bool = option(True, "whether the weight is log(1 + weight)")
    batch: bool = option(
        True, "whether weights are divided by the largest of the batch, or of each channel"
    )

    of_hidden: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """Checks that the target is an image."""
        target, setting = config.target, config.setting
        if not target.picture_like or target.width(setting) != setting.tokenizer.values:
            raise ConfigError(
                f"config.losses has {str(self)!r}, which compares images, and config.target = "
                f"{str(target)!r} is none: expected all pixels of a patch, as in pixels or "
                "normalized_pixels"
            )

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the loss; see `focal_frequency`."""
        error = outputs.values - outputs.target
        if outputs.mask.counted is not None:
            error = error * outputs.mask.counted[..., None].astype(error.dtype)
        rows = jnp.arange(len(error))[:, None]
        patches = jnp.zeros(outputs.patches.shape, error.dtype).at[rows, outputs.mask.hide]
        image = unpatchify(patches.set(error), outputs.unit.grid, outputs.tokenizer.patch_size)
        return focal_frequency(image, self.alpha, self.average, self.log, self.batch), {}


def power_spectrum(images: Float[AnyArray, "B N H W C"]) -> Float[Array, "B N H W C"]:
    """Returns `|F|^2` of the orthonormal 2D Fourier transform over axes 2 and 3."""
    spectrum = jnp.fft.fft2(images, axes=(2, 3), norm="ortho")
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def focal_frequency(
    difference: Float[AnyArray, "B T H W C"],
    alpha: float = 1.0,
    average: bool = True,
    log: bool = True,
    batch: bool = True,
) -> Float[Array, ""]:
    """Returns the mean of `w |F|^2` over the spectrum F of the difference of two images.

    `w = |F|^alpha`, or `log(1 + |F|^alpha)`, divided by its maximum, without gradient
    (Jiang et al. 2021, equations 8 and 9).

    Args:
        difference: `[B, T, H, W, C]`.
        alpha: exponent.
        average: whether F is the mean spectrum of the batch.
        log: whether the logarithm is taken.
        batch: whether the maximum is that of all images, or of each frame and channel.
    """
    if average:  # the transform of a mean is the mean of the transforms
        difference = difference.mean(axis=0, keepdims=True)
    square = power_spectrum(difference)
    weight = jax.lax.stop_gradient(square) ** (alpha / 2)
    weight = jnp.log1p(weight) if log else weight
    largest = weight.max() if batch else weight.max(axis=(2, 3), keepdims=True)
    weight = jnp.where(largest > 0, weight / jnp.where(largest > 0, largest, 1.0), 0.0)
    return jnp.mean(weight * square)
