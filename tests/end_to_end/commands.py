"""The command, as the tests of whole runs start it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANGS = 1800  # seconds after which nothing will come any more, however busy the machine is


def start(config_file, workdir, *options):
    """A run in a process group of its own, to be signalled as a terminal does; output as text."""
    command = [sys.executable, "-m", "hpm_jax.main", f"--config={config_file}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"},
    )


def finish(config_file, workdir, *options):
    """The exit code and the output of a run that ends by itself."""
    process = start(config_file, workdir, *options)
    output, _ = process.communicate(timeout=HANGS)
    return process.returncode, output
