"""What a target is: what each patch should become, `[B, L, D]`, without gradient."""

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from jax import Array

from hpm_jax.plugs import Plug, Setting
from hpm_jax.tokens import Grid, Tokenizer


class TargetContext(NamedTuple):
    """The input of a target."""

    patches: Array  # [B, L, P] float32: the normalised patches
    grid: Grid  # (t, h, w)
    tokenizer: Tokenizer
    frozen: Any = None  # what the target's `load` gave
    state: Any = None  # the target's own
    params: Any = None  # the target's own, from `init`
    readings: Mapping[str, Array] = MappingProxyType({})  # what it `reads`, [B, L] or [B, L, D]


class Target(Plug, kind="target"):
    """From patches to the values that the model predicts for hidden patches."""

    reads: ClassVar[tuple[str, ...]] = ()  # outputs of the teacher; see `Strategy.reads`
    distribution: ClassVar[bool] = False  # whether the values of a patch are shares of 1
    picture_like: ClassVar[bool] = False  # whether they are pixels, in the order of the patch
    note: ClassVar[str] = "rebuilt: hidden patches are left grey, since this target is no picture"

    def width(self, setting: Setting) -> int:
        """Values of the target of one patch, D; by default those of the patch, P."""
        return setting.tokenizer.values

    @abc.abstractmethod
    def __call__(self, context: TargetContext) -> Array:
        """`[B, L, D]` float32; pure, and, but for clusters, independent from image to image."""

    def picture(self, values: Array, context: TargetContext, hide: Array) -> Array | None:
        """Predicted values as normalised pixels of the patch; None where they are no picture.

        Args:
            values: `[B, M, D]`, the model's predictions for the hidden patches.
            context: with the true patches.
            hide: `[B, M]`, which they are.

        Returns:
            `[B, M, P]` float32.
        """
        return None
