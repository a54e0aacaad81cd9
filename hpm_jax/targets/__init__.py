"""Targets: what a hidden patch should become, `[B, L, D]` of patches `[B, L, P]`."""

from hpm_jax.targets.clusters import OnlineClusters as OnlineClusters
from hpm_jax.targets.codes import Codes as Codes
from hpm_jax.targets.features import TeacherFeatures as TeacherFeatures
from hpm_jax.targets.frozen import FrozenFeatures as FrozenFeatures
from hpm_jax.targets.hog import HOG as HOG
from hpm_jax.targets.low_variance import LowVariancePixels as LowVariancePixels
from hpm_jax.targets.pixels import NormalizedPixels as NormalizedPixels
from hpm_jax.targets.pixels import RawPixels as RawPixels
from hpm_jax.targets.pixels import one_frame as one_frame
from hpm_jax.targets.pixels import patch_statistics as patch_statistics
from hpm_jax.targets.target import Target as Target
from hpm_jax.targets.target import TargetContext as TargetContext

TARGETS = Target.plugs
