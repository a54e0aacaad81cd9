"""Several processes as one run: killed, preempted, gone on with by fewer, and agreeing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
HANGS = 1800  # seconds after which nothing will come any more, however busy the machine is
CONFIG = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.update(epochs=6, batch_size=128, base_learning_rate=2e-3)
    config.evaluation.update(every_epochs=3.0, bank_images=64, test_images=64)
    config.run.update(checkpoint_every_epochs=0.5, log_every_steps=1)
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


def start(config_file, workdir, processes, devices, *options):
    """Starts all processes of a run on this machine, each with so many virtual devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "hpm_jax.main", f"--config={config_file}"]
    command += [f"--workdir={workdir}", *options]
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    started = []
    for process in range(processes):
        together = [f"--coordinator={coordinator}", f"--processes={processes}"]
        together = [*together, f"--process={process}"] if processes > 1 else []
        log = (workdir.parent / f"{workdir.name}_{process}.log").open("a+")
        started.append(
            subprocess.Popen(
                command + together,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        )
        started[-1].log = log
    return started


def output(process):
    process.log.seek(0)
    return process.log.read()


def finish(started, timeout=HANGS):
    codes = [process.wait(timeout) for process in started]
    return codes, [output(process) for process in started]


def lines(workdir):
    path = workdir / "metrics.jsonl"
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:  # being written
            continue
    return found


def wait_for_step(started, workdir, step):
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        assert all(process.poll() is None for process in started), output(started[0])
        if any(line["step"] >= step for line in lines(workdir)):
            return
        time.sleep(0.1)
    raise AssertionError(output(started[0]))


def test_killed_preempted_and_finished_by_fewer(config_file, tmp_path):
    """Two processes, then two again, then one: the curve is that of one that never stopped."""
    undisturbed = start(config_file, tmp_path / "whole", 1, 1)
    workdir = tmp_path / "elastic"

    killed = start(config_file, workdir, 2, 2)
    wait_for_step(killed, workdir, 16)
    killed[1].send_signal(signal.SIGKILL)
    codes, outputs = finish(killed)
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None), outputs[0]

    terminated = start(config_file, workdir, 2, 2, "--config.run.workers=1")
    wait_for_step(terminated, workdir, 36)
    terminated[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(terminated)
    assert codes == [143, 143], outputs
    assert "going on from step" in outputs[0] and "stopped by SIGTERM after step" in outputs[0]
    stopped_at = lines(workdir)[-1]["step"]
    assert (workdir / "checkpoints" / str(stopped_at)).exists(), "saved at the step of the stop"

    codes, outputs = finish(start(config_file, workdir, 1, 4))
    assert codes == [0] and f"going on from step {stopped_at}" in outputs[0], outputs
    codes, outputs = finish(undisturbed)
    assert codes == [0], outputs

    ours, theirs = lines(workdir), lines(tmp_path / "whole")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("reconstruction", "ranking", "held_out/reconstruction"):
            if name in other:  # the same images and masks: what is left is the order of sums
                np.testing.assert_allclose(one[name], other[name], rtol=2e-3, err_msg=name)
        assert one.get("n_hard") == other.get("n_hard")


def test_processes_that_differ_say_so(config_file, tmp_path):
    workdir = tmp_path / "run"
    first = start(config_file, workdir, 2, 1)
    first[1].kill()
    first[1].wait()
    coordinator = next(word for word in first[0].args if word.startswith("--coordinator"))
    other = subprocess.Popen(
        [*first[1].args, "--config.optimizer.b2=0.9"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
    )
    assert coordinator in other.args
    said, _ = other.communicate(timeout=HANGS)
    codes, outputs = finish(first[:1])
    for code, text in ((other.returncode, said), (codes[0], outputs[0])):
        assert code == 1 and "process 1 differs from process 0" in text, text
        assert "optimizer.b2: 0.95 in process 0, 0.9 there" in text
    assert not (workdir / "config.json").exists(), "nothing was begun"


def test_a_coordinator_that_is_not_there(config_file, tmp_path):
    command = [sys.executable, "-m", "hpm_jax.main", f"--config={config_file}"]
    command += [f"--workdir={tmp_path / 'run'}", "--coordinator=localhost:1", "--processes=2"]
    found = subprocess.run(
        [*command, "--process=1", "--join_timeout=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGS,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    text = found.stdout + found.stderr
    assert found.returncode == 1 and "did not reach the coordinator at localhost:1" in text, text
