"""A run on images of several classes learns each of them."""

import pytest
from small import task_options
from test_multi_label import write_lists

from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.finetune import finetune


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("lists"))


def test_a_run_learns_both_classes(pretrained, data, tmp_path):
    config = task_options("finetune", pretrained, labels="many")
    config.data.update(source="multi_label", path=str(data), crop_scale=(0.9, 1.0), flip=0.0)
    config.augment.update(policy="", erase=0.0, mixup=0.0, cutmix=0.0)
    config.regularize.terms = ("label_consistency",)
    config.optimizer.update(epochs=12, batch_size=16, warmup_epochs=1.0, layer_decay=1.0)
    config.optimizer.absolute_learning_rate = 3e-3
    config.evaluation.update(every_epochs=12.0, batch_size=16)
    assert finetune(freeze(inherit(config)), tmp_path) == 0
    lines = [x for x in read_lines(tmp_path / "metrics.jsonl") if "test_loss" in x]
    assert lines[-1]["mean_average_precision"] > 0.8
    assert (tmp_path / "best").is_dir()
