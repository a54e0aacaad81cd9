"""Every mask strategy trains, goes on from a checkpoint, and is the same on any devices."""

import chex
import jax
import pytest
from small import schedule
from small_masks import strategy
from small_strategies import (
    KINDS,
    NAMES,
    assert_trains_and_resumes,
    base,
    mask_of,
    showing_step,
    started,
    strategy_config,
)

from hpm_jax.config import ConfigError
from hpm_jax.run.devices import all_devices


@pytest.mark.parametrize("name", NAMES)
def test_images(name, monkeypatch, tmp_path):
    """Eight devices give the mask that the step on one device has used, bit for bit."""
    with monkeypatch.context() as patch:
        state, images, mask = assert_trains_and_resumes(patch, name, "images", tmp_path)
    devices, shared = all_devices(), base("images")
    assert devices.count == 8
    step = showing_step(monkeypatch, name, trains=False)
    there = jax.device_put(state, devices.replicated), devices.put(images)
    _, found = step(*there, shared.key, schedule(n_hard=started(name)[0].hidden // 2))
    there = mask_of(found)
    assert len(there.hide.sharding.device_set) == 8
    chex.assert_trees_all_equal(jax.device_get(there), mask)


def refused(name, kind, changes):
    """The sentence that a config is refused with, or None."""
    try:
        strategy_config(name, kind, **changes)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused(name, kind):
    """What a strategy reads has to be there; with all of that every one goes on everything."""
    plug = strategy(name)
    assert refused(name, kind, {}) is None
    for changes, impossible, sentence in (
        ({"losses": ()}, "predicted_loss" in plug.reads, "reads predicted losses, and no term of"),
        (
            {"teacher": "none"},
            plug.reads and "teacher" in plug.networks,
            "asks the teacher, and config.teacher = 'none' keeps none: ",
        ),
        (
            {"teacher": "moving_average(every_steps=2)"},
            plug.reads and (*plug.reads, *plug.networks) != ("predicted_loss", "teacher"),
            "which alone are kept from step to step: every_steps = 1 in config.teacher",
        ),
        (
            {"teacher": "moving_average(frame_stride=2)"},
            {"attention", "features"} & set(plug.reads),
            "of every frame: frame_stride = 1 in config.teacher",
        ),
    ):
        if "frame_stride" in str(changes) and kind == "images":
            sentence, impossible = "does not divide the 1 frames of the grid", True
        found = refused(name, kind, changes)
        assert bool(found) == bool(impossible), (changes, found)
        if impossible:
            assert sentence in found
            assert f"'{name}'" in found or "does not divide" in found
