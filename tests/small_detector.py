"""A small detector, and a batch for it, shared by the tests of its step."""

import jax
import numpy as np

from hpm_jax.models import Detector
from hpm_jax.step.detect_step import DetectRecipe
from hpm_jax.step.schedules import DetectSchedule
from hpm_jax.step.state import init_params
from hpm_jax.tokens import Tokenizer

MODEL = Detector(
    (1, 8, 8),
    16,
    classes=2,
    patch=4,
    width=16,
    depth=2,
    heads=2,
    window=3,
    global_blocks=1,
    channels=8,
    box_head="2fc",
    box_width=16,
    anchor_scale=4.0,
)
RECIPE = DetectRecipe(Tokenizer((1, 4, 4), (0.5,), (0.5,)), 24, 12, 16, 12)
SCHEDULE = DetectSchedule(np.float32(1e-2))
KEY = jax.random.key(0)


def small_params():
    """Random parameters of the model."""
    return jax.jit(lambda: init_params(MODEL, jax.random.key(1)))()


def small_batch():
    """Images, sizes, boxes, classes and masks; the last image has no object."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 1), dtype=np.uint8)
    corners = rng.uniform(0, 16, (8, 3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(6, 15, (8, 3, 2))], -1)
    boxes[:, 2], boxes[7] = 0, 0
    sizes = np.full((8, 2), 32, np.float32)
    masks = rng.integers(0, 2, (8, 3, 8, 8), dtype=np.uint8)
    return images, sizes, boxes.astype(np.float32), rng.integers(0, 2, (8, 3)), masks
