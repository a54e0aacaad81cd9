"""A run and a comparison in stages: both change the teacher before the same steps."""

import shutil

import chex
import jax
import numpy as np
from small import changed, compiled_step, parts_of, small_config, small_options
from test_stages import STAGED, changing

from hpm_jax.compare.train import train_seeds
from hpm_jax.config import freeze
from hpm_jax.run.load import load_run
from hpm_jax.step.schedules import PretrainTimetable
from hpm_jax.tasks.pretrain import pretrain


def test_a_run_goes_on_at_the_boundary(tmp_path, capsys):
    """A run that stopped right before the second stage ends with the same state."""
    options = changed(small_options(), STAGED)
    options.optimizer.update(epochs=2, warmup_epochs=0.5)
    options.evaluation.every_epochs = 0.0
    config = freeze(options)
    assert pretrain(config, tmp_path) == 0
    before = load_run(tmp_path).state
    assert "stage 2 begins" in capsys.readouterr().out
    steps = sorted((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(steps[-1])
    boundary = load_run(tmp_path).state
    chex.assert_trees_all_equal(boundary.params, before.teacher)
    assert pretrain(config, tmp_path) == 0
    chex.assert_trees_all_equal(load_run(tmp_path).state, before)


def test_stages_of_a_comparison():
    """A comparison changes stages where a run does: before steps 0 and 2."""
    config = small_config(**STAGED, optimizer={"epochs": 2, "batch_size": 8, "warmup_epochs": 0.5})
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 16, 16, 1), np.uint8)
    (trained,) = train_seeds(
        config, [config.seed], {"image": images}, 12, (1.0,), 2, lambda line: None
    )
    parts, timetable = parts_of(config), PretrainTimetable(config, 12, 12)
    step, change = compiled_step(config), jax.jit(changing(parts))
    assert timetable.stages == {0: 1, 2: 2} and timetable.steps == 3
    state = parts.state
    for index in range(3):
        if stage := timetable.stages.get(index):
            state = change(state, parts.key, np.int32(stage))
        state, _ = step(state, images[0, index], parts.key, timetable.at(index))
    found = trained.snapshots[-1].state
    for name in ("params", "teacher"):
        chex.assert_trees_all_close(getattr(found, name), getattr(state, name), atol=1e-5)
