"""The simple feature pyramid: five levels from the last map of a vision transformer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.layers import layer_norm, pytorch_init
from hpm_jax.models.mlp import gelu

SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)  # of the levels, relative to the map

he_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """A convolution without bias, and a layer norm over the channels of each place."""

    channels: int
    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., h, w, C]` to `[..., h, w, channels]`."""
        side = (self.size, self.size)
        conv = nn.Conv(
            self.channels, side, use_bias=False, dtype=self.dtype, kernel_init=he_init, name="conv"
        )
        return layer_norm(self.dtype, "norm")(conv(x))


def enlarging(channels: int, dtype: Any, name: str) -> nn.ConvTranspose:
    """Returns a layer that doubles height and width, each place on its own."""
    return nn.ConvTranspose(
        channels, (2, 2), (2, 2), "VALID", dtype=dtype, kernel_init=pytorch_init, name=name
    )


class SimplePyramid(nn.Module):
    """ViTDet's pyramid (Li et al. 2022, 2203.16527, section 3), without top-down connections.

    Levels have the strides of a patch times 1/4, 1/2, 1, 2 and 4; the coarsest one takes every
    second place of the one before it.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        """Maps `[B, h, w, D]` to five maps, the finest first, in the module's dtype."""
        width = x.shape[-1]
        four = enlarging(width // 2, self.dtype, "enlarge_4_first")(x)
        four = gelu(layer_norm(self.dtype, "norm_4")(four))
        four = enlarging(width // 4, self.dtype, "enlarge_4_second")(four)
        two = enlarging(width // 2, self.dtype, "enlarge_2")(x)
        half = nn.max_pool(x, (2, 2), (2, 2))
        levels = []
        for scale, level in zip(SCALES, (four, two, x, half), strict=False):
            level = ConvNorm(self.channels, 1, self.dtype, name=f"reduce_{scale:g}")(level)
            levels.append(ConvNorm(self.channels, 3, self.dtype, name=f"mix_{scale:g}")(level))
        return (*levels, levels[-1][:, ::2, ::2])
