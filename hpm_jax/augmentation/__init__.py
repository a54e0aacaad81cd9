"""What is done to a batch on the device before a classifier learns from it."""

from hpm_jax.augmentation.erasing import ERASE_MODES as ERASE_MODES
from hpm_jax.augmentation.erasing import erase as erase
from hpm_jax.augmentation.mixing import MIXUP_MODES as MIXUP_MODES
from hpm_jax.augmentation.mixing import mix as mix
from hpm_jax.augmentation.mixing import smooth_labels as smooth_labels
