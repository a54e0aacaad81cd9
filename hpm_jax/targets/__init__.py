"""Targets: pure functions of the patches `[B, L, P]` to what is to be rebuilt, `[B, L, D]`."""

from hpm_jax.targets.pixels import Target as Target
from hpm_jax.targets.pixels import channel_normalized_pixels, normalized_pixels, pixels
from hpm_jax.targets.pixels import one_frame as one_frame
from hpm_jax.targets.pixels import patch_statistics as patch_statistics

TARGETS: dict[str, Target] = {
    "pixels": pixels,
    "normalized_pixels": normalized_pixels,
    "channel_normalized_pixels": channel_normalized_pixels,
}
