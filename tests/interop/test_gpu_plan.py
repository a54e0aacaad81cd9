"""Programs for GPUs that are not present, by XLA's CUDA plugin: pip install "jax[cuda13]"."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax_cuda13_plugin")
ROOT = Path(__file__).parent.parent.parent
HEADS_OF_16 = ("--config.model.decoder_width=64",)  # cuDNN takes multiples of 8, not 48 / 4


def plan(topology, *options):
    command = [sys.executable, "-m", "hpm_jax.plan", "--config=configs/quickstart.py"]
    found = subprocess.run(
        [*command, f"--topology={topology}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env=dict(os.environ),
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("topology", ["h100:2", "a100-80:2"])
def test_the_step_compiles_for_gpus(topology):
    found = plan(topology)
    assert re.search(r"temporaries .* GiB \(compiled\)", found), found
    assert "memory traffic" in found and "at least" not in found
    assert "all-reduce" in found and "compiled for CPUs" not in found


def test_the_cheapest_way_is_chosen():
    """Fused attention, unrolled, moves the fewest bytes, and needs half precision."""
    small = *HEADS_OF_16, "--config.model.depth=2", "--choose"
    found = plan("h100:1", "--config.model.dtype=bfloat16", *small)
    assert "--config.model.attention=cudnn --config.model.unroll=0: the least traffic" in found
    traffic = [float(gib) for gib in re.findall(r"([\d.]+) GiB +\d+ s$", found, re.M)]
    assert len(traffic) == 4 and f"memory traffic     {min(traffic):.2f} GiB" in found
    found = plan("h100:1", *small)
    assert len(re.findall("attention=cudnn.*refused: .*the dtype is float32", found)) == 2
    assert re.search("^--config.model.attention=xla .*: the least traffic", found, re.M)


def test_the_step_compiles_with_cudnn():
    """With 17 and 65 tokens: odd numbers, forward and backward."""
    options = "--config.model.attention=cudnn", "--config.model.dtype=bfloat16"
    found = plan("h100:1", *options, *HEADS_OF_16)
    assert re.search(r"needed .* GiB of .* \(compiled\)", found), found
