"""The learning rate of every layer at every stage of a run, against a table made here."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import task_options

from hpm_jax.config import freeze
from hpm_jax.models import Classifier
from hpm_jax.step.optimizer import layer_scales, layerwise
from hpm_jax.step.schedules import FinetuneTimetable
from hpm_jax.step.state import init_params

IMAGES = 1000  # an epoch is ten steps of 100
# blocks, layer decay, base learning rate, batch size, epochs, floor: MAE's B, L and H
# (FINETUNE.md), and the H of VideoMAE with its scaled floor (scripts/kinetics)
RECIPES = {
    "B": (12, 0.65, 5e-4, 1024, 100, 1e-6),
    "L": (24, 0.75, 1e-3, 1024, 50, 1e-6),
    "H": (32, 0.75, 1e-3, 1024, 50, 1e-6),
    "VideoMAE-H": (32, 0.75, 1e-3, 512, 50, 1e-5 * 512 / 256),
}
WARMUP = 5


def rates_by_hand(depth, decay, base, batch, epochs, floor, epoch):
    """The rate of layers 0 (patches) to depth + 1 (the head) at `epoch`, float64."""
    peak = base * batch / 256
    if epoch < WARMUP:
        rate = peak * epoch / WARMUP
    else:
        angle = math.pi * (epoch - WARMUP) / (epochs - WARMUP)
        rate = floor + (peak - floor) * (1 + math.cos(angle)) / 2
    return [rate * decay ** (depth + 1 - layer) for layer in range(depth + 2)]


@functools.cache
def params_of(depth):
    model = Classifier((1, 2, 2), 4, classes=3, width=8, depth=depth, heads=2)
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_layer_learns_at_its_share_of_the_whole_rate(name):
    depth, decay, base, batch, epochs, floor = RECIPES[name]
    optimizer = {"epochs": epochs, "batch_size": batch, "base_learning_rate": base}
    optimizer |= {"floor": floor, "layer_decay": decay, "warmup_epochs": float(WARMUP)}
    options = task_options("finetune", "runs/x", data={"source": "synthetic"}, optimizer=optimizer)
    config = freeze(options)
    timetable = FinetuneTimetable(config, batch * 10)
    shapes = params_of(depth)
    descend = jax.jit(layerwise(layer_scales(shapes, config.optimizer.layer_decay)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    # below the floor in warm-up, in its middle, at the peak, half-way, and at the last step
    for step in (1, 25, 50, (epochs + WARMUP) * 5, epochs * 10):
        expected = rates_by_hand(depth, decay, base, batch, epochs, floor, step / 10)
        moved = jax.tree.map(
            lambda x: -np.asarray(x), descend(zeros, ones, timetable.learning_rate(step))
        )
        assert_layers(moved, expected)


def assert_layers(moved, expected):
    """Every parameter has moved by the rate of its layer."""
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5)
    encoder = moved["encoder"]
    stack = encoder["transformer"]["blocks"]
    for leaf in jax.tree.leaves({k: v for k, v in encoder.items() if k != "transformer"}):
        close(leaf, expected[0])
    for leaf in jax.tree.leaves(stack):
        for block, part in enumerate(leaf):
            close(part, expected[block + 1])
    for leaf in jax.tree.leaves({k: v for k, v in moved.items() if k != "encoder"}):
        close(leaf, expected[-1])


def test_the_last_norm_before_cls_pooling_is_of_the_head():
    """MAE's rule by names: what is none of patches, positions, tokens and blocks has scale 1."""
    model = Classifier((1, 2, 2), 4, classes=3, width=8, depth=2, heads=2, pool="cls")
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    scales = layer_scales(shapes, 0.5)
    assert scales["encoder"]["transformer"]["norm"]["scale"] == 1.0
    assert scales["encoder"]["cls_token"] == scales["encoder"]["positions"] == 0.5**3
