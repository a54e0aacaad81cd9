"""Features by the command, killed in the middle and given again."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
from commands import HANGS, ROOT
from small_weights import ENCODER, random_weights

from hpm_jax.convert.write import write_weights

WORDS = ("--source=digits", "--pool=cls", "--batch_size=16", "--part_size=16")


def started(weights, out):
    command = [sys.executable, "-m", "hpm_jax", "embed", f"--init_from={weights}", *WORDS]
    return subprocess.Popen(
        [*command, f"--out={out}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"},
    )


def test_a_killed_command_gives_the_same_file(tmp_path):
    weights = tmp_path / "encoder.safetensors"
    write_weights(weights, random_weights(ENCODER))
    whole, out = tmp_path / "whole.npz", tmp_path / "killed.npz"
    run = started(weights, whole)
    said = run.communicate(timeout=HANGS)[0]
    assert run.returncode == 0, said
    assert "images/s" in said and f"wrote 1797 rows of features to {whole}" in said

    parts = tmp_path / "killed.npz.parts"
    run = started(weights, out)
    while run.poll() is None and not (parts / "part-00002.npz").exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL and not out.exists()
    assert 3 <= len(list(parts.glob("part-*.npz"))) < 113

    run = started(weights, out)
    said = run.communicate(timeout=HANGS)[0]
    assert run.returncode == 0 and "parts are there: going on" in said, said
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()
    with np.load(out) as found:
        assert found["features"].shape == (1797, 32) and found["names"][1] == "image 1"
