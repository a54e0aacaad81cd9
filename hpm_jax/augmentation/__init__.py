"""Augmentation of batches on the device, for fine-tuning."""

from hpm_jax.augmentation.erasing import ERASE_MODES as ERASE_MODES
from hpm_jax.augmentation.erasing import erase as erase
from hpm_jax.augmentation.mixing import MIXUP_MODES as MIXUP_MODES
from hpm_jax.augmentation.mixing import mix as mix
from hpm_jax.augmentation.mixing import smooth_labels as smooth_labels
