"""Decoders on clips of tubes: a step in bfloat16, in parts, with every option of a mask."""

import jax
import numpy as np
import pytest
from small import Parts, schedule, small_config

from hpm_jax.step.step import make_train_step


@pytest.mark.parametrize(
    ("decoder", "term"),
    [
        ("self_attention", "multi_scale(blocks=(1, 2), cells=(2, 16))"),
        ("latent_regressor(depth=1)", "latent_alignment"),
        ("diffusion", "visible"),
        ("noisy_positions(levels=(100,))", "visible"),
    ],
)
def test_clips(decoder, term):
    """A step on clips of tubes, in bfloat16, with all that a mask has, in parts of a batch."""
    config = small_config(
        decoder=decoder,
        losses=("ranking(pairs='tubes')", term),
        data={"source": "synthetic", "frames": 4, "image_size": (32, 32)},
        model={
            "patch_size": 8, "tubelet": 2, "depth": 2, "layout": "videomae", "dtype": "bfloat16",
        },
        mask={"unit": "tube", "ratio_end": 0.5, "counted": 0.5, "replaced": 0.25},
        optimizer={"batch_size": 4, "accumulation": 2},
        evaluation={"pool": "mean"},
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes in bfloat16
        parts = Parts(config)
        step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer, 2))
        images = np.random.default_rng(0).integers(
            0, 256, (4, *config.data.train_shape), dtype=np.uint8
        )
        scalars = schedule(4)._replace(hidden=np.int32(10), counted=np.float32(0.5))
        state, metrics = step(parts.state, images, parts.key, scalars)
    assert np.isfinite([float(x) for x in metrics.values()]).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
