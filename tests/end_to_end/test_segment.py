"""The command of segmentation: killed, resumed bit for bit, and able to learn a few images."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from commands import HANGS, ROOT, finish, start
from small_scenes import VOID, write_scenes

from hpm_jax.run.load import load_run

CONFIG = ROOT / "configs" / "segment.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six scenes to train on and the same six to test on."""
    root = write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 6}, size=(32, 48), step=4)
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "train", root / kind / "val")
    return root


def options(pretrained, root, epochs):
    return [
        f"--config.init_from={pretrained}",
        f"--config.data.path={root}",
        f"--config.data.ignore_index={VOID}",
        "--config.data.image_size=(32,48)",
        "--config.optimizer.batch_size=6",
        f"--config.optimizer.epochs={epochs}",
        "--config.optimizer.warmup_epochs=2.0",
        "--config.optimizer.absolute_learning_rate=1e-2",
        "--config.optimizer.layer_decay=1.0",
        "--config.model.drop_path=0.0",
        "--config.evaluation.pictures=2",
    ]


def test_a_killed_run_goes_on_bit_for_bit(pretrained, root, tmp_path):
    words = [*options(pretrained, root, 24), "--config.run.log_every_steps=1"]
    words += ["--config.evaluation.every_epochs=12.0"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = finish(CONFIG, whole, *words)
    assert code == 0 and "mean IoU" in output, output
    process = start(CONFIG, killed, *words)
    until = time.monotonic() + HANGS
    while not any((killed / "checkpoints").glob("[0-9]*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HANGS)
    code, output = finish(CONFIG, killed, *words)
    assert code == 0, output
    found, expected = load_run(killed).state, load_run(whole).state
    assert int(found.step) == 24
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    scores = [json.loads((run / "segmentation.json").read_text()) for run in (whole, killed)]
    assert scores[0] == scores[1]


def test_a_few_scenes_are_learnt(pretrained, root, tmp_path):
    words = [*options(pretrained, root, 300), "--config.evaluation.every_epochs=300.0"]
    words += ["--config.augment.scale=(1.0,1.0)", "--config.augment.photometric=False"]
    words += ["--config.run.checkpoint_every_epochs=300.0", "--config.run.threads=1"]
    code, output = finish(CONFIG, tmp_path / "run", *words)
    assert code == 0, output
    found = json.loads((tmp_path / "run" / "segmentation.json").read_text())
    assert found["miou"] > 0.95, output
    assert (tmp_path / "run" / "report.html").exists()
