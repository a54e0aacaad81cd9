"""The command of detection: killed, and resumed bit for bit."""

import json
import signal
import time

import jax
import numpy as np
import pytest
from commands import HANGS, ROOT, finish, start
from small_blobs import write_blobs

from hpm_jax.run.load import load_run

CONFIG = ROOT / "configs" / "detect.py"
WORDS = [
    "--config.data.image_size=(32,32)",
    "--config.data.max_objects=4",
    "--config.data.mask_cells=16",
    "--config.model.window=4",
    "--config.model.global_blocks=1",
    "--config.model.channels=8",
    "--config.model.box_head=2fc",
    "--config.model.box_width=16",
    "--config.model.anchor_scale=4.0",
    "--config.model.level_proposals=32",
    "--config.model.test_level_proposals=32",
    "--config.model.proposals=16",
    "--config.model.sampled_anchors=16",
    "--config.model.sampled_proposals=16",
    "--config.optimizer.batch_size=4",
    "--config.optimizer.epochs=16",
    "--config.optimizer.warmup_epochs=1.0",
    "--config.evaluation.every_epochs=16.0",
    "--config.evaluation.lowest_score=0.01",
    "--config.run.log_every_steps=1",
]


def test_a_killed_run_goes_on_bit_for_bit(pretrained, tmp_path):
    pytest.importorskip("pycocotools")
    root = write_blobs(tmp_path / "blobs", {"train": 4, "val": 2})
    words = [*WORDS, f"--config.init_from={pretrained}", f"--config.data.path={root}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = finish(CONFIG, whole, *words)
    assert code == 0 and "box AP" in output and "mask AP" in output, output
    process = start(CONFIG, killed, *words)
    until = time.monotonic() + HANGS
    while not any((killed / "checkpoints").glob("[0-9]*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HANGS)
    code, output = finish(CONFIG, killed, *words)
    assert code == 0, output
    found, expected = load_run(killed).state, load_run(whole).state
    assert int(found.step) == 16
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    scores = [json.loads((run / "detection.json").read_text()) for run in (whole, killed)]
    assert scores[0] == scores[1]
    assert (killed / "report.html").exists()
