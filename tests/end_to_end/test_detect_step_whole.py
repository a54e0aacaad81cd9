"""The whole detection step: in parts, on several devices, frozen, with a rate for each layer."""

import dataclasses

import jax
import numpy as np
import pytest
from small_detector import KEY, MODEL, RECIPE, SCHEDULE, small_batch, small_params

from hpm_jax.run.devices import all_devices
from hpm_jax.step.detect_step import make_detect_step
from hpm_jax.step.optimizer import FINETUNE_DECAYED, encoder_rates, make_optimizer
from hpm_jax.step.state import fresh_state, init_params


@pytest.fixture(scope="module")
def params():
    return small_params()


@pytest.fixture(scope="module")
def batch():
    return small_batch()


def one_step(params, batch, recipe=RECIPE, model=MODEL, decay=0.5, devices=None):
    optimizer = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
    rates = encoder_rates(params, decay, model.frozen)
    step = jax.jit(make_detect_step(model, recipe, optimizer, rates))
    state = jax.jit(lambda: fresh_state(params, optimizer))()
    arrays = batch if devices is None else [devices.put(x) for x in batch]
    return step(state, *arrays, KEY, SCHEDULE)


@pytest.fixture(scope="module")
def stepped(params, batch):
    return one_step(params, batch, dataclasses.replace(RECIPE, drop_path=0.3))


def test_accumulation_changes_nothing(params, batch, stepped):
    parts = dataclasses.replace(RECIPE, drop_path=0.3, accumulation=4)
    part = one_step(params, batch, parts)[1]
    for name in ("loss", "loss_masks", "loss_boxes", "gradient_norm"):
        assert float(part[name]) == pytest.approx(float(stepped[1][name]), rel=1e-4), name


def test_devices_change_nothing(params, batch, stepped):
    recipe = dataclasses.replace(RECIPE, drop_path=0.3)
    eight = one_step(params, batch, recipe, devices=all_devices())[1]
    for name in ("loss", "gradient_norm"):
        assert float(eight[name]) == pytest.approx(float(stepped[1][name]), rel=1e-4), name


def test_every_part_learns_at_its_own_rate(params, stepped):
    after = stepped[0].params
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a - b)).max()), params, after)
    # Adam's first step is the learning rate itself, in each direction
    assert moved["boxes"]["classes"]["bias"] == pytest.approx(1e-2, rel=0.02)
    assert moved["mask_head"]["masks"]["bias"] == pytest.approx(1e-2, rel=0.02)
    bias = moved["encoder"]["patch_embedding"]["projection"]["bias"]
    assert bias == pytest.approx(1e-2 * 0.5**3, rel=0.02)
    assert min(jax.tree.leaves(moved)) > 0


def test_a_frozen_encoder_stays_bit_for_bit_and_what_follows_learns(params, batch):
    frozen = MODEL.clone(frozen=True)
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(lambda: init_params(frozen, KEY))
    )
    after = one_step(params, batch, model=frozen)[0].params
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a - b)).max()), params, after)
    assert max(jax.tree.leaves(moved.pop("encoder"))) == 0
    assert min(jax.tree.leaves(moved)) > 0
