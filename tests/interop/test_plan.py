"""Plans for real TPU slices, by the compiler that libtpu brings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def plan(topology):
    command = [sys.executable, "-m", "hpm_jax.plan", "--config=configs/quickstart.py"]
    return subprocess.run(
        [*command, f"--topology={topology}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
    )


@pytest.mark.parametrize(("topology", "devices"), [("v5e:2x2", 4), ("v4:2x2x1", 8)])
def test_the_step_compiles_for_a_slice(topology, devices):
    found = plan(topology)
    assert found.returncode == 0, found.stderr
    assert f"{topology}: {devices} devices of 16 GiB" in found.stdout
    assert "all-reduce" in found.stdout and "largest batch" in found.stdout


def test_a_slice_that_does_not_exist():
    found = plan("v5e:3x7")
    assert found.returncode == 1 and "--topology v5e:3x7 does not exist" in found.stderr
    assert "Traceback" not in found.stderr
