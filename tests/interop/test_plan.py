"""Plans for real TPU slices, by the compiler that libtpu brings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def plan(topology, *options):
    command = [sys.executable, "-m", "hpm_jax.plan", "--config=configs/quickstart.py"]
    return subprocess.run(
        [*command, f"--topology={topology}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=dict(os.environ),
    )


@pytest.mark.parametrize(("topology", "memory"), [("v5e:2x2", "15.75"), ("v4:2x2x1", "30.75")])
def test_the_step_compiles_for_a_slice(topology, memory):
    found = plan(topology)
    assert found.returncode == 0, found.stderr
    assert f"{topology}: 4 devices, {memory} GiB free on each" in found.stdout
    assert "all-reduce" in found.stdout and "memory traffic" in found.stdout
    assert "largest batch" in found.stdout


def test_the_step_compiles_with_our_kernel():
    """With 17 and 65 tokens, forward and backward, on several devices."""
    options = "--config.model.attention=pallas", "--config.model.dtype=bfloat16"
    found = plan("v5e:2x2", *options)
    assert found.returncode == 0, found.stderr
    assert "all-reduce" in found.stdout and "memory traffic" in found.stdout


def test_what_does_not_fit_comes_with_advice():
    refused = plan("v5e:2x2", "--config.optimizer.batch_size=1048576")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "it does not fit; by arithmetic" in refused.stdout
    assert re.search(
        r"(--config\.optimizer\.accumulation=\d+): about .* GiB$", refused.stdout, re.M
    )


def test_a_slice_that_does_not_exist():
    found = plan("v5e:3x7")
    assert found.returncode == 1 and "--topology v5e:3x7 does not exist" in found.stderr
    assert "Traceback" not in found.stderr
