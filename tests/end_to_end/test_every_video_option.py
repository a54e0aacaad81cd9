"""Options of clips, pairwise, so that any two meet: each step that is let through can be traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import schedule, small_config

from hpm_jax.run.build import (
    Start,
    build_init,
    build_method,
    build_model,
    build_optimizer,
)
from hpm_jax.step.step import make_train_step
from hpm_jax.teachers.teacher import NoTeacher

# Sizes are those of the digits, in 4 x 4 places.
VIDEO = {"source": "synthetic", "frames": 8}
VARIANTS = [
    {
        "data": VIDEO,
        "model": {"layout": "videomae", "tubelet": 2},
        "mask": {"unit": "tube", "views": 2},
        "losses": ("ranking(pairs='tubes')",),
        "teacher": "moving_average(frame_stride=4, every_steps=2)",
        "target": "channel_normalized_pixels",
        "optimizer": {"accumulation": 2},
    },
    {
        "data": VIDEO | {"clips": 2},
        "model": {"layout": "mae_st", "tubelet": 2},
        "mask": {"unit": "patch", "ratio": 0.9},
        "losses": ("ranking(pairs='all')",),
        "teacher": "moving_average(frame_stride=2, every_steps=3)",
        "target": "normalized_pixels(frames='one')",
        "evaluation": {"pool": "cls"},
    },
    {
        "data": VIDEO | {"frames": 4},
        "model": {"layout": "mae_st", "tubelet": 1},
        "mask": {"unit": "tube"},
        "losses": ("absolute(pairs='sampled')",),
        "target": "pixels(frames='one')",
    },
    {
        "data": VIDEO | {"clips": 3},
        "model": {"layout": "videomae", "tubelet": 4},
        "mask": {"strategy": "random", "views": 2},
        "losses": (),
        "teacher": "none",
    },
    {
        "data": VIDEO,
        "model": {"layout": "videomae", "tubelet": 2},
        "mask": {"strategy": "random"},  # nobody asks the teacher
        "teacher": "moving_average(every_steps=2)",
    },
    {
        "data": {"clips": 2},  # crops of an image
        "mask": {"unit": "tube", "views": 2},
        "losses": ("ranking(pairs='sampled', distances=1)",),
        "teacher": "moving_average(every_steps=2)",
    },
]


@pytest.mark.parametrize("changes", VARIANTS, ids=range(len(VARIANTS)))
def test_what_is_let_through_can_be_traced(changes):
    """A step gives back what it takes, so it is compiled once; its metrics are scalars."""
    small = {"optimizer": {"batch_size": 8}, "evaluation": {"pool": "mean"}}
    config = small_config(
        **{name: small.get(name, {}) | changes.get(name, {}) for name in small},
        **{name: change for name, change in changes.items() if name not in small},
    )
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    key = jax.random.key(0)
    state = jax.eval_shape(build_init(config, model, method, optimizer), key, Start())
    assert (state.teacher is None) == (config.teacher == NoTeacher())
    images = jax.ShapeDtypeStruct((8, *config.data.train_shape), jnp.uint8)
    step = make_train_step(model, method, optimizer, config.optimizer.accumulation)
    after, metrics = jax.eval_shape(step, state, images, key, schedule())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () and value.dtype == np.float32 for value in metrics.values())
