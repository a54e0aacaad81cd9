"""The measurements of an accelerator, tried on a CPU."""

import json
import subprocess
import sys

from benchmarks import accelerator


def test_a_step_is_measured(tmp_path):
    out = tmp_path / "here.json"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--tiny", "--only", "micro, xla"]
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=accelerator.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["measurements"]["micro, xla"]
    assert found["numbers"]["images_per_second"] > 0
    assert "| micro, xla |" in done.stdout
