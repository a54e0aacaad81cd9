"""Schedules and timetables."""

import math

import numpy as np
import pytest
from small import MAE, small_config

from hpm_jax.step.schedules import PretrainTimetable, warmup_cosine
from hpm_jax.teachers import MovingAverage


def test_warmup_and_cosine():
    rates = [warmup_cosine(epoch, 1.2e-3, 0.0, 40, 200) for epoch in (0, 20, 40, 120, 200)]
    np.testing.assert_allclose(rates, [0, 6e-4, 1.2e-3, 6e-4, 0], atol=1e-15)
    assert warmup_cosine(200, 1.0, 0.1, 40, 200) == pytest.approx(0.1)
    assert warmup_cosine(0, 1.0, 0.0, 0, 10) == 1.0, "no warm-up starts at the peak"


def test_teacher_decay_ramps_over_absolute_epochs():
    decays = [MovingAverage().decay(epoch) for epoch in (0, 50, 100, 150)]
    np.testing.assert_allclose(decays, [0.999, 0.99945, 0.9999, 0.9999])


def test_the_recipe_of_the_paper():
    config = small_config(
        optimizer={"epochs": 200, "batch_size": 2048, "base_learning_rate": 1.5e-4}
    )
    assert config.optimizer.learning_rate == pytest.approx(1.2e-3)


def test_timetable():
    config = small_config(optimizer={"epochs": 4, "batch_size": 64})
    timetable = PretrainTimetable(config, images=1000, hidden=12)
    assert timetable.steps == 4 * 1000 // 64
    assert timetable.step_of(1) == math.ceil(1000 / 64)
    epochs = [timetable.epoch(step) for step in range(timetable.steps)]
    assert epochs[-1] < 4
    counts = [int(timetable.at(step).n_hard) for step in range(timetable.steps)]
    # 12 hidden, half of them hard at the end: 1.5, 3, 4.5 and 6, cut off, in epochs 0 to 3
    assert counts == [(1, 3, 4, 6)[int(epoch)] for epoch in epochs]
    assert timetable.at(0).learning_rate == 0
    assert timetable.at(20).teacher_rate == np.float32(0.1)


def test_a_schedule_by_steps_moves_inside_an_epoch():
    config = small_config(mask={"strategy": "hard(end=1.0, schedule='step')"})
    timetable = PretrainTimetable(config, images=1000, hidden=12)
    inside = {int(timetable.at(step).n_hard) for step in range(15)}
    assert len(inside) > 2


def test_ratio_and_counted_share_move_from_start_to_end():
    mask = {"ratio": 0.75, "ratio_end": 0.5, "counted": 0.5, "counted_end": 1.0}
    config = small_config(mask=mask)
    timetable = PretrainTimetable(config, images=1000, hidden=config.hidden_units)
    first, last = timetable.at(0), timetable.at(timetable.steps - 1)
    assert (first.hidden, last.hidden) == (12, 8) and config.hidden_units == 12
    assert (first.counted, last.counted) == (0.5, 1.0)
    still = PretrainTimetable(small_config(), images=1000, hidden=12).at(0)
    assert still.hidden is None and still.counted is None


def test_random_masks_have_no_hard_patches():
    timetable = PretrainTimetable(small_config(**MAE), images=1000, hidden=12)
    assert timetable.at(timetable.steps - 1).n_hard == 0
