"""A pretext task on frequencies: the student sees an image without some of them, and adds them."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.losses.fourier import power_spectrum
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import AnyArray, Grid, Mask, Tokenizer, patchify, unpatchify

SPATIAL = (2, 3)  # axes of [B, T, H, W, C]


@register("masked_frequencies")
class MaskedFrequencies(Term):
    """Masked frequency modelling (MFM, Xie et al. 2023, section 3).

    The student also encodes the whole image, from which frequencies are removed: in each image
    either those at a distance of `radius` and more from the centre of the spectrum, or those below.
    A linear head rebuilds the pixels from all its patches. The loss is `|F - G|^gamma` of the
    orthonormal 2D Fourier transforms of both, averaged over the frequencies that were removed. With
    `no_decoder` and no other term this is the paper's method; the pass over the visible patches is
    then never computed. A loss predictor has no part in it, as no patch has a loss of its own.
    """

    radius: float = option(16.0, "distance from the centre of the spectrum", above=0, high=1e5)
    low: float = option(0.5, "share of images that keep the low frequencies", low=0, high=1)
    gamma: float = option(1.0, "exponent of the distance of two spectra", above=0, high=10)

    whole_image: ClassVar[bool] = True
    of_visible: ClassVar[bool] = False

    def check(self, config: Any) -> None:
        """Both parts of the spectrum need frequencies."""
        height, width = config.data.image_size
        corner = float(np.hypot(height // 2, width // 2))
        if self.radius > corner:
            raise ConfigError(
                f"config.losses has {str(self)!r}, and no frequency of {height} x {width} pixels "
                f"is farther than {corner:.4g} from the centre: lower radius"
            )

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the linear head, from a token to the pixels of its patch."""
        return init_perceptron(key, (setting.width, setting.tokenizer.values))

    def step_flops(self, setting: Setting) -> float:
        """Those of the head; the pass of the student is not the term's own."""
        return 3 * setting.patches * perceptron_flops((setting.width, setting.tokenizer.values))

    def draw(self, key: Array, mask: Mask) -> Bool[Array, " B"]:
        """Returns which images keep the low frequencies."""
        return jax.random.bernoulli(key, self.low, (mask.hide.shape[0],))

    def whole_input(self, patches: Array, grid: Grid, tokenizer: Tokenizer, drawn: Any) -> Array:
        """Returns the patches of the images without the frequencies that are removed."""
        pixels = tokenizer.pixels(patches, grid)
        spectrum = jnp.fft.fft2(pixels, axes=SPATIAL)
        spectrum = jnp.where(self.kept(drawn, pixels.shape), spectrum, 0)
        filtered = jnp.clip(jnp.fft.ifft2(spectrum, axes=SPATIAL).real, 0, 1)
        return patchify(tokenizer.normalize(filtered), tokenizer.patch_size)

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the mean distance of the removed frequencies."""
        tokens = outputs.whole_features[:, -outputs.patches.shape[1] :].astype(jnp.float32)
        error = perceptron(outputs.own.params, tokens) - outputs.patches
        image = unpatchify(error, outputs.unit.grid, outputs.tokenizer.patch_size)
        removed = ~self.kept(outputs.own.drawn, image.shape)
        return frequency_distance(image, removed, self.gamma), {}

    def kept(self, low: Bool[AnyArray, " B"], shape: tuple[int, ...]) -> Bool[Array, "B 1 H W 1"]:
        """Returns which frequencies each image keeps, for a video of `shape` `[B, T, H, W, C]`."""
        rows, columns = (np.fft.fftfreq(side) * side for side in shape[2:4])
        inside = np.hypot(rows[:, None], columns) < self.radius
        kept = inside[None] == jnp.asarray(low)[:, None, None]
        return kept[:, None, :, :, None]


def frequency_distance(
    difference: Float[AnyArray, "B T H W C"],
    counted: Bool[AnyArray, "B 1 H W 1"],
    gamma: float = 1.0,
) -> Float[Array, ""]:
    """Returns the mean of `|F|^gamma` over what is counted of the spectrum F of a difference.

    Args:
        difference: of two images; the transform is linear.
        counted: the frequencies that enter the mean, of all frames and channels.
        gamma: exponent.
    """
    square = power_spectrum(difference) + 1e-12
    weight = counted.astype(jnp.float32)
    total = jnp.sum(square ** (gamma / 2) * weight)
    return total / (weight.sum() * difference.shape[1] * difference.shape[4])
