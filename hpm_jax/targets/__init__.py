"""Targets: pure functions of the patches `[B, L, P]` to what is to be rebuilt, `[B, L, D]`."""

from hpm_jax.targets.pixels import normalized_pixels, pixels
from hpm_jax.targets.pixels import patch_statistics as patch_statistics

TARGETS = {"pixels": pixels, "normalized_pixels": normalized_pixels}
