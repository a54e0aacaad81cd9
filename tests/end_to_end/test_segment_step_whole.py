"""The whole segmentation step: in parts and on several devices, with one and with two passes."""

import dataclasses

import pytest
from small_segmenter import MODEL, RECIPE, small_batch, small_params
from test_segment_step import one_step

from hpm_jax.run.devices import all_devices


@pytest.fixture(scope="module")
def params():
    return small_params()


@pytest.fixture(scope="module")
def batch():
    return small_batch()


def test_accumulation_keeps_the_mean_of_the_whole_batch(params, batch):
    """The parts have different numbers of labelled pixels: a mean of their means is wrong."""
    drop = dataclasses.replace(RECIPE, drop_path=0.3)
    parts = dataclasses.replace(drop, accumulation=4)
    whole, part = (one_step(MODEL, params, batch, recipe)[1] for recipe in (drop, parts))
    for name in ("loss", "gradient_norm", "labelled"):
        assert float(part[name]) == pytest.approx(float(whole[name]), rel=1e-4), name


def test_devices_share_one_mean(params, batch):
    one = one_step(MODEL, params, batch)[1]
    eight = one_step(MODEL, params, batch, devices=all_devices())[1]
    assert float(eight["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
    assert float(eight["gradient_norm"]) == pytest.approx(float(one["gradient_norm"]), rel=1e-4)


def test_mask_sup_in_parts(params, batch):
    recipe = dataclasses.replace(RECIPE, mask_sup=0.5)
    parts = dataclasses.replace(recipe, accumulation=4)
    whole, part = (one_step(MODEL, params, batch, one)[1] for one in (recipe, parts))
    for name in ("loss", "mask_sup", "similarity", "gradient_norm"):
        assert float(part[name]) == pytest.approx(float(whole[name]), rel=1e-4), name
