"""A small segmenter, and a batch for it, shared by the tests of its step."""

import jax
import numpy as np

from hpm_jax.models import Segmenter
from hpm_jax.step.schedules import SegmentSchedule
from hpm_jax.step.segment_step import SegmentRecipe
from hpm_jax.step.state import init_params
from hpm_jax.tokens import Tokenizer

MODEL = Segmenter((1, 4, 4), 16, classes=3, width=16, depth=2, heads=2, head_std=0.5)
RECIPE = SegmentRecipe(Tokenizer((1, 4, 4), (0.5,), (0.5,)))
SCHEDULE = SegmentSchedule(np.float32(1e-2))
KEY = jax.random.key(0)


def small_params():
    """Random parameters of the model."""
    return jax.jit(lambda: init_params(MODEL, jax.random.key(1)))()


def small_batch():
    """Images and label maps: the first image has no label, the second few."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    labels = rng.integers(-1, 3, (8, 16, 16)).astype(np.int16)
    labels[0] = -1  # an image without labels
    labels[1, 3:] = -1  # and one with few
    return images, labels
