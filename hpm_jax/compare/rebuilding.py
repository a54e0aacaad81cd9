"""How well hidden patches are rebuilt and ranked, under masks that are the same in every cell."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from hpm_jax.evaluation.rebuilding import fixed_mask, moments, summarize
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import Masked, student_pass

Rebuild = Callable[[TrainState, np.ndarray, int], dict[str, Array]]
BATCH = 250  # images rebuilt at once


def make_rebuild(model: MaskedAutoencoder, method: Method) -> Rebuild:
    """Builds the compiled `(state, uint8 images, first) -> moments`, of one batch."""
    blind = method.at_random

    def rebuild(state: TrainState, images: Array, first: Array) -> dict[str, Array]:
        patches = blind.patches(images)
        masked = Masked(patches, fixed_mask(method, state, patches, first))
        outputs = student_pass(model, blind, state, state.params, masked)
        return moments(method, patches, outputs)

    return jax.jit(rebuild)


def measure_rebuilding(rebuild: Rebuild, state: TrainState, images: np.ndarray) -> dict[str, float]:
    """The numbers of `summarize`, over whole batches of test images, uint8 `[N, H, W, C]`."""
    size = min(BATCH, len(images))
    starts = range(0, len(images) - size + 1, size)
    return summarize([rebuild(state, images[start : start + size], start) for start in starts])
