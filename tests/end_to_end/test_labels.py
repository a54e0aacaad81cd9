"""Pre-training with labels, from the data to the report."""

from small import MAE, small_config

from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.pretrain import pretrain


def test_labels_come_from_the_pipeline(tmp_path):
    """A run on digits learns their classes, of training and of held-out images."""
    config = small_config(
        **MAE | {"losses": ("supervised(classes=10)",)},
        optimizer={"epochs": 10, "base_learning_rate": 4e-2},
        evaluation={"every_epochs": 10.0},
        run={"log_every_steps": 5},
    )
    assert pretrain(config, tmp_path) == 0
    lines = read_lines(tmp_path / "metrics.jsonl")
    learnt = [line["supervised_accuracy"] for line in lines if "supervised_accuracy" in line]
    assert learnt[0] < 0.3 and learnt[-1] > 0.5
    held_out = [line["held_out/supervised_accuracy"] for line in lines if "rank_me" in line]
    assert held_out[0] < 0.4 < held_out[-1]
