"""Stages: the student becomes the teacher at given epochs."""

import chex
import jax
import numpy as np
import pytest
from small import compiled_step, parts_of, schedule, small_config

from hpm_jax.config import ConfigError
from hpm_jax.run.build import build_fresh_params
from hpm_jax.run.devices import all_devices
from hpm_jax.step.guard import History, new_history
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.step.stages import make_next_stage

FEATURES = {
    "target": "teacher_features(normalize='layer_norm')",
    "objective": "smooth_l1(beta=2.0)",
    "mask": {"strategy": "random"},
    "losses": (),
}
STAGED = FEATURES | {"teacher": "staged(epochs=(0, 1))"}


def changing(parts):
    return make_next_stage(build_fresh_params(parts.model, parts.method))


def test_the_student_becomes_the_teacher():
    """A new student, another one each time; everything else stays."""
    parts = parts_of(small_config(**STAGED))
    change = jax.jit(changing(parts))
    state, _ = compiled_step(parts.config)(parts.state, parts.images, parts.key, schedule())
    after = change(state.replace(history=History(*np.float32([3, 50]))), parts.key, np.int32(2))
    chex.assert_trees_all_equal(after.teacher, state.params)
    chex.assert_trees_all_equal(after.optimizer, state.optimizer)
    assert int(after.step) == 1 and after.history == new_history()
    first = parts.state.params["encoder"]["patch_embedding"]["projection"]["kernel"]
    new = [
        change(state, parts.key, np.int32(stage)).params["encoder"]["patch_embedding"]["projection"]
        for stage in (1, 2, 2)
    ]
    assert (new[0]["kernel"] != first).any() and (new[0]["kernel"] != new[1]["kernel"]).any()
    np.testing.assert_array_equal(new[1]["kernel"], new[2]["kernel"])
    chex.assert_trees_all_equal_shapes_and_dtypes(after.params, state.params)
    # the same on eight devices
    devices = all_devices()
    there = jax.jit(changing(parts), out_shardings=devices.replicated)(
        jax.device_put(state, devices.replicated), parts.key, np.int32(1)
    )
    chex.assert_trees_all_equal(there.params, change(state, parts.key, np.int32(1)).params)


def test_the_teacher_stands_still_in_a_step():
    parts = parts_of(small_config(**STAGED))
    state, _ = compiled_step(parts.config)(
        parts.state, parts.images, parts.key, schedule(teacher_rate=0.5)
    )
    chex.assert_trees_all_equal(state.teacher, parts.state.teacher)
    assert (jax.tree.leaves(state.params)[0] != jax.tree.leaves(parts.state.params)[0]).any()


def test_steps_of_stages():
    """A stage begins before the first step at which its epochs have been seen."""
    config = small_config(**FEATURES, teacher="staged(epochs=(0, 1, 3))")
    timetable = PretrainTimetable(config, 100, 12)  # 64 a step
    assert timetable.stages == {0: 1, 2: 2, 5: 3}
    assert PretrainTimetable(small_config(), 100, 12).stages == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "staged"}, r"stage at epoch 1600 is beyond the run, which ends at epoch 4"),
        ({"teacher": "staged(epochs=(0, 4))"}, "stage at epoch 4 is beyond the run"),
        ({"teacher": "staged(epochs=(2, 1))"}, "expected epochs in rising order"),
        ({"teacher": "staged(epochs=())"}, "expected epochs in rising order"),
        ({"init_from": "runs/x"}, "starts each student at random, and config.init_from"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**STAGED | changes)
