"""Targets: what a hidden patch should become, `[B, L, D]` of patches `[B, L, P]`."""

from hpm_jax.targets.pixels import NormalizedPixels as NormalizedPixels
from hpm_jax.targets.pixels import RawPixels as RawPixels
from hpm_jax.targets.pixels import one_frame as one_frame
from hpm_jax.targets.pixels import patch_statistics as patch_statistics
from hpm_jax.targets.target import Target as Target
from hpm_jax.targets.target import TargetContext as TargetContext

TARGETS = Target.plugs
