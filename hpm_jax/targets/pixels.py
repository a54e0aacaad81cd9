"""What a hidden patch should become: its pixels, raw or normalised patch by patch."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.fields import option
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray, Grid, gather

PASTED = "rebuilt: visible patches are pasted, hidden ones are predictions"
NORMALIZED = (
    "rebuilt: visible patches are pasted; hidden ones get their contrast and brightness back from "
    "the true patch, since the target is normalised patch by patch"
)
ONE_FRAME = "; one frame of each patch is rebuilt, and stands in all its frames"


@dataclasses.dataclass(frozen=True, repr=False)
class Pixels(Target):
    """Patches, less a mean, over a deviation, both of the patch itself."""

    picture_like: ClassVar[bool] = True

    frames: str = option(
        "all",
        "which frames of each patch are rebuilt: all, or one (mae_st)",
        choices=("all", "one"),
    )

    def statistics(self, patches: Array, std: tuple[float, ...]) -> tuple[Array, Array]:
        """Mean and deviation of `[B, L, P]`, which broadcast to the patches.

        Args:
            std: what the channels were divided by.
        """
        return jnp.zeros((), patches.dtype), jnp.ones((), patches.dtype)

    @property
    def note(self) -> str:  # type: ignore[override]
        """How the picture is to be read."""
        pasted = PASTED if type(self).statistics is Pixels.statistics else NORMALIZED
        return pasted + (ONE_FRAME if self.frames == "one" else "")

    def width(self, setting: Setting) -> int:
        """P, or P over the frames of a patch."""
        values = setting.tokenizer.values
        return values if self.frames == "all" else values // setting.tokenizer.patch_size[0]

    def _rebuilt(self, context: TargetContext) -> Float[Array, "B L D"]:
        """What of each patch is rebuilt, `[B, L, D]`."""
        if self.frames == "all":
            return context.patches
        return one_frame(context.patches, context.grid, context.tokenizer.patch_size)

    def __call__(self, context: TargetContext) -> Float[Array, "B L D"]:
        """`[B, L, P]`, or one frame of each patch."""
        patches = self._rebuilt(context)
        mean, deviation = self.statistics(patches, context.tokenizer.std)
        return (patches - mean) / deviation

    def picture(
        self, values: Float[AnyArray, "B M D"], context: TargetContext, hide: Int[AnyArray, "B M"]
    ) -> Float[Array, "B M P"]:
        """With the mean and deviation of the true patch; one frame stands in all of them."""
        patches = self._rebuilt(context)
        of_patches = self.statistics(patches, context.tokenizer.std)
        mean, deviation = (gather(jnp.broadcast_to(x, patches.shape), hide) for x in of_patches)
        return jnp.tile(values * deviation + mean, context.patches.shape[-1] // values.shape[-1])


@register("pixels")
class RawPixels(Pixels):
    """Normalised pixels as they are (MAE without `norm_pix_loss`)."""


@register("normalized_pixels")
class NormalizedPixels(Pixels):
    """Less the mean of the patch, over its deviation (MAE, `norm_pix_loss`; HPM)."""

    def statistics(self, patches: Array, std: tuple[float, ...]) -> tuple[Array, Array]:
        """See `patch_statistics`."""
        return patch_statistics(patches, std)


@register("channel_normalized_pixels")
class ChannelNormalizedPixels(Pixels):
    """The same channel by channel (VideoMAE)."""

    def statistics(self, patches: Array, std: tuple[float, ...]) -> tuple[Array, Array]:
        """See `channel_statistics`."""
        return channel_statistics(patches, std)


def patch_statistics(
    patches: Float[AnyArray, "B L P"], std: tuple[float, ...] = (1.0,)
) -> tuple[Float[Array, "B L 1"], Float[Array, "B L 1"]]:
    """Mean and `sqrt(var + 1e-6)` of all P values of each patch, `[B, L, 1]`, unbiased (MAE)."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def channel_statistics(
    patches: Float[AnyArray, "B L P"], std: tuple[float, ...]
) -> tuple[Float[Array, "B L P"], Float[Array, "B L P"]]:
    """Mean and `sqrt(var) + 1e-6` of each channel of each patch, `[B, L, P]`, unbiased.

    VideoMAE (engine_for_pretraining.py) takes them of pixels in [0, 1], so that the 1e-6 is one of
    those here too: `1e-6 / std` in our units.
    """
    by_channel = patches.reshape(*patches.shape[:-1], -1, len(std))
    mean = by_channel.mean(axis=-2, keepdims=True)
    deviation = by_channel.std(axis=-2, keepdims=True, ddof=1) + 1e-6 / np.asarray(std, np.float32)
    spread = (
        jnp.broadcast_to(x, by_channel.shape).reshape(patches.shape) for x in (mean, deviation)
    )
    mean, deviation = spread
    return mean, deviation


def one_frame(
    patches: Float[AnyArray, "B L P"], grid: Grid, patch_size: Grid
) -> Float[Array, "B L D"]:
    """One frame of each patch, `[B, L, P / frames]`: of a clip of 16, number 0, 2, ... 12 and 15.

    That is `linspace(0, T - 1, t)` of the T frames, cut to whole numbers, one in each of the t
    slots of the grid (mae_st).
    """
    slots, frames = grid[0], patch_size[0]
    number = np.arange(slots)
    wanted = number * (slots * frames - 1) // max(slots - 1, 1) - frames * number
    batch, length, values = patches.shape
    split = patches.reshape(batch, slots, length // slots, frames, values // frames)
    picked = [split[:, slot, :, frame] for slot, frame in enumerate(wanted)]
    return jnp.stack(picked, axis=1).reshape(batch, length, values // frames)
