"""What is done to a batch on the device before a classifier learns from it."""

from hpm_jax.augmentation.erasing import erase as erase
from hpm_jax.augmentation.mixing import mix as mix
from hpm_jax.augmentation.mixing import smooth_labels as smooth_labels
