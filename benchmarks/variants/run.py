"""What the teacher of a pre-trained run looks at."""

import jax
import numpy as np
from jax import Array

from hpm_jax.data.pipeline import test_images
from hpm_jax.data.sources import SOURCES
from hpm_jax.run.load import LoadedRun, load_run


def run_and_patches(workdir: str, count: int) -> tuple[LoadedRun, Array]:
    """A pre-trained run, and the patches `[count, L, P]` of test images drawn by a fixed seed."""
    run = load_run(workdir)
    records = SOURCES[run.config.data.source](run.config.data).test
    drawn = np.random.default_rng(0).permutation(len(records))[:count]
    images, _, _ = test_images(records, drawn, run.config)
    return run, jax.jit(run.method.patches)(images)
