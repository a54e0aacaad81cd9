"""Whole runs that meet a fault: stopped early or stuck, a dead worker, a full disk, divergence."""

import contextlib
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from commands import HANGS, start

ROOT = Path(__file__).parents[2]
SECONDS = 60  # for what has to be prompt: far less than the five minutes of a wait for others
CONFIG = f"""
import sys

sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {{folder!r}}]
from small import small_options


def get_config():
    config = small_options()
    config.data.update(source="synthetic", image_size=(8, 8), synthetic_images=256)
    config.optimizer.update(epochs=200, batch_size=32, warmup_epochs=0.0)
    config.evaluation.update(every_epochs=0.0)
    config.run.update(checkpoint_every_epochs=1.0, log_every_steps=1)
    config.modules = ("stalling",)
    return config
"""
# a disk that stalls in the thirtieth batch of a run
STALLING = """
import dataclasses, itertools, time
from hpm_jax.data.sources import SOURCES

@dataclasses.dataclass
class Stalling:
    records: object
    count: object = dataclasses.field(default_factory=itertools.count)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        if next(self.count) > 30 * 32:
            time.sleep(10**6)
        return self.records[index]

    def name(self, index):
        return self.records.name(index)

def stalling(data):
    splits = SOURCES["synthetic"](data)
    return splits._replace(train=Stalling(splits.train))

SOURCES["stalling"] = stalling
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / "stalling.py").write_text(STALLING)
    (folder / "tiny.py").write_text(CONFIG.format(folder=str(folder)))
    return folder / "tiny.py"


def wait_until(true, process):
    until = time.monotonic() + HANGS
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "the run hangs"
        time.sleep(0.05)


def step_of(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def catches_sigterm(process):
    found = [x for x in Path(f"/proc/{process.pid}/status").read_text().splitlines()]
    (caught,) = [x.split()[1] for x in found if x.startswith("SigCgt")]
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def children(pid):
    """The processes that `pid` has started; `ps` may cut their lines at the width of a screen."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # one that has just ended
            if f"\nPPid:\t{pid}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_sigterm_during_the_imports(config_file, tmp_path, seconds):
    process = start(config_file, tmp_path / "run")
    wait_until(lambda: catches_sigterm(process), process)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143 and output == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_sigterm_while_compiling(config_file, tmp_path, seconds):
    process = start(config_file, tmp_path)
    wait_until((tmp_path / "checkpoints").exists, process)  # made just before
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143 and "Traceback" not in output, output


def test_a_stalled_disk_does_not_hold_a_run_that_is_to_stop(config_file, tmp_path):
    process = start(config_file, tmp_path, "--config.data.source=stalling")
    wait_until(lambda: step_of(tmp_path) >= 20, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143 and "stopped by SIGTERM after step" in output, output
    assert "Traceback" not in output and "had not stopped" not in output
    saved = max(int(x.name) for x in (tmp_path / "checkpoints").iterdir() if x.name.isdigit())
    assert f"after step {saved};" in output, "everything is saved"


def test_a_worker_that_is_killed_ends_the_run_with_one_sentence(config_file, tmp_path):
    process = start(config_file, tmp_path, "--config.run.workers=1")
    wait_until(lambda: step_of(tmp_path) >= 5, process)
    (worker,) = [x for x in children(process.pid) if b"spawn_main" in command_line(x)]
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 1 and "Traceback" not in output, output
    last = output.splitlines()[-1]
    assert last.startswith("error: a worker process") and "killed by signal 9" in last


def test_a_run_that_cannot_save_ends_at_once(config_file, tmp_path):
    process = start(config_file, tmp_path)
    wait_until(lambda: step_of(tmp_path) >= 5, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
    said = []
    for line in process.stdout:
        if line.startswith("error: "):
            began = time.monotonic()
            said.append(line)
    process.wait(timeout=HANGS)
    assert process.returncode == 74 and len(said) == 1 and "cannot write" in said[0], said
    assert time.monotonic() - began < SECONDS


def test_a_diverged_run_goes_on_as_its_message_says(config_file, tmp_path):
    rate = ("--config.optimizer.base_learning_rate=1e3", "--config.optimizer.weight_decay=1e3")
    short = ("--config.optimizer.epochs=3", "--config.optimizer.clip_norm=0.0")
    process = start(config_file, tmp_path, *short, *rate)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 1 and "--config.run.accept_new_options=True" in output, output
    better = ("--config.optimizer.base_learning_rate=1e-3", "--config.run.accept_new_options=True")
    process = start(config_file, tmp_path, *short, *better)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0 and "done: read" in output, output
    (change,) = json.loads((tmp_path / "config_changes.json").read_text())
    assert change["options"]["optimizer.base_learning_rate"] == [1e3, 1e-3]
