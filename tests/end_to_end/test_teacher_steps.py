"""The benchmark of steps with cheaper teachers, on small images."""

import subprocess
import sys

from benchmarks.accelerator import ROOT


def test_a_step_is_timed_and_what_would_be_emulated_is_refused():
    command = [sys.executable, "-m", "benchmarks.teacher_steps", "visible", "float8"]
    shapes = ["--size=micro", "--side=32", "--batch=2", "--dtype=float32", "--steps=1"]
    done = subprocess.run([*command, *shapes], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, _, visible, float8 = done.stdout.splitlines()
    step, alone, seconds = (float(cell) for cell in visible.split("|")[2:5])
    assert step > 0 and alone > 0 and seconds > 0
    assert float8.startswith("| float8 | refused: dtype = 'float8' in config.teacher needs a GPU")
