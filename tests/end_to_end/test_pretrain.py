"""Whole runs, as processes: finished, killed, terminated, diverged, and gone on with."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import HANGS, finish, start

from hpm_jax.run.checkpoints import CheckpointError
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines

ROOT = Path(__file__).parents[2]
CONFIG = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.update(epochs=12, batch_size=128, base_learning_rate=2e-3)
    config.evaluation.update(every_epochs=6.0, test_images=64)
    config.run.update(checkpoint_every_epochs=1.0, log_every_steps=1)
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


def numbers(workdir):
    """Every number of a run that is not a time."""
    times = {"seconds", "images_per_second", "mfu", "data_wait"}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


def wait_for_step(workdir, step, process):
    """Until `metrics.jsonl` has reached a step, and a checkpoint before it is whole.

    A run that ends before that fails at once, and a slow machine does not.
    """
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0]
        reached = any(line["step"] >= step for line in read_lines(workdir / "metrics.jsonl"))
        saved = workdir / "checkpoints"
        if reached and any(path.name.isdigit() for path in saved.iterdir()):
            return
        time.sleep(0.02)
    raise AssertionError("the run hangs")


def assert_nobody_is_left(process):
    """The group of a run that has ended becomes empty."""
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a worker has outlived its run")


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, output = finish(config_file, workdir)
    assert code == 0, output
    return workdir, output


def test_what_a_run_leaves_behind(whole):
    workdir, output = whole
    found = {path.name for path in workdir.iterdir()}
    assert found - {"warnings.log"} == {  # there where a library had something to say
        *("config.json", "versions.json", "metrics.jsonl"),
        *("report.md", "report.html", "report.json"),
        *("checkpoints", "pictures", "tensorboard"),
        "data.json",
        ".lock",  # held by the process alone: what is left of it holds nothing
    }
    pictures = sorted(path.name for path in (workdir / "pictures").iterdir())
    steps = [f"step_{s:07d}.{kind}" for s in (0, 76, 151) for kind in ("json", "png")]
    assert pictures == ["curves.png", *steps]
    page = (workdir / "report.html").read_text()
    assert "kNN accuracy" in page and page.count("data:image/png") > 30
    assert any((workdir / "tensorboard").iterdir())
    report = (workdir / "report.md").read_text()
    assert "kNN accuracy" in report and "pictures/step_0000151.png" in report
    for said in ("1617 images to train on", "kNN", "compiled the step", "done: read"):
        assert said in output


def test_metrics(whole):
    lines = numbers(whole[0])
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 152))
    assert {"reconstruction", "ranking", "ranked_correctly", "gradient_norm", "n_hard"} <= set(
        steps[0]
    )
    assert steps[0]["n_hard"] == 0 and steps[-1]["n_hard"] == 6
    evaluations = [line for line in lines if "knn" in line]
    assert [line["step"] for line in evaluations] == [0, 76, 151]
    held_out = [line["held_out/reconstruction"] for line in evaluations]
    assert held_out[-1] < held_out[0], "it learns"


def test_a_killed_run_goes_on_bit_for_bit(config_file, whole, tmp_path):
    """With worker processes, which must not outlive the run, and then without."""
    process = start(config_file, tmp_path, "--config.run.workers=2")
    wait_for_step(tmp_path, 40, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert_nobody_is_left(process)
    code, output = finish(config_file, tmp_path)
    assert code == 0 and "going on from step" in output, output
    assert numbers(tmp_path) == numbers(whole[0])
    assert last_state(tmp_path) == last_state(whole[0])


def test_a_terminated_run_saves_and_goes_on_in_the_middle_of_an_epoch(config_file, whole, tmp_path):
    """SIGTERM goes to the whole group, workers too, as a scheduler sends it."""
    process = start(config_file, tmp_path, "--config.run.workers=2")
    wait_for_step(tmp_path, 20, process)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143, output
    assert "stopped by SIGTERM" in output and "the same command goes on" in output
    assert "Traceback" not in output
    assert_nobody_is_left(process)
    code, output = finish(config_file, tmp_path)
    assert code == 0 and "going on from step" in output, output
    assert numbers(tmp_path) == numbers(whole[0])
    assert last_state(tmp_path) == last_state(whole[0])


def test_ctrl_c(config_file, tmp_path):
    process = start(config_file, tmp_path)
    wait_for_step(tmp_path, 20, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 130 and "stopped by SIGINT" in output, output
    assert "Traceback" not in output


def test_a_finished_run_is_left_as_it_is(config_file, whole):
    before = numbers(whole[0])
    code, output = finish(config_file, whole[0])
    assert code == 0 and "151 of 151" in output, output
    assert numbers(whole[0]) == before


def test_the_workdir_of_another_config(config_file, whole):
    before = numbers(whole[0])
    code, output = finish(config_file, whole[0], "--config.optimizer.epochs=13")
    assert code == 1
    assert "config.optimizer.epochs: 12 there, 13 now" in output and "Traceback" not in output
    assert numbers(whole[0]) == before


def test_divergence_is_named_and_nothing_bad_is_saved(config_file, tmp_path):
    rate = ("--config.optimizer.base_learning_rate=1e3", "--config.optimizer.weight_decay=1e3")
    options = (*rate, "--config.optimizer.clip_norm=0.0")
    code, output = finish(config_file, tmp_path, *options)
    assert code == 1 and "Traceback" not in output
    assert "the loss is" in output and "config.optimizer.base_learning_rate" in output
    for state in last_state(tmp_path, none=True) or ():
        assert np.isfinite(np.frombuffer(state, np.float32)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config.optimizer.bach_size=3"], "no option bach_size: did you mean 'batch_size'"),
        (["--config.mask.strategy=hrad"], "did you mean 'hard'"),
        (["--confg=3"], "Unknown command line flag 'confg'"),
        (
            ["--config.data.source=folder", "--config.data.path=/nowhere"],
            "'/nowhere' is not a folder",
        ),
        (["--config.optimizer.batch_size=5000"], "1617 training images are fewer than one batch"),
    ],
)
def test_mistakes_on_the_command_line(config_file, tmp_path, options, message):
    code, output = finish(config_file, tmp_path / "run", *options)
    assert code == 1 and message in output and "Traceback" not in output, output
    assert not (tmp_path / "run").exists(), "nothing was begun"


def last_state(workdir, none=False):
    """The arrays of the newest checkpoint, as bytes."""
    import orbax.checkpoint as ocp

    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    if none and not steps:
        return None
    import jax

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(
            (workdir / "checkpoints" / str(steps[-1]) / "default").resolve()
        )
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def test_a_run_is_loaded_from_its_workdir(whole, tmp_path):
    run = load_run(whole[0])
    assert int(run.state.step) == 151 and run.config.optimizer.epochs == 12
    images = np.zeros((2, 16, 16, 1), np.uint8)
    patches = run.method.patches(images)
    features = run.model.apply({"params": run.state.params}, patches, method="encode")
    assert features.shape == (2, 17, 16) and np.isfinite(features).all()
    with pytest.raises(CheckpointError, match="is not the workdir of a run"):
        load_run(tmp_path)
