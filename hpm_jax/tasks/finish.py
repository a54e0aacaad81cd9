"""The end of every training task: a report, a line on the console, an exit code."""

import shlex
import sys
from pathlib import Path

from hpm_jax.run.console import Console
from hpm_jax.run.loop import Outcome
from hpm_jax.visualize.report import write_report


def command() -> str:
    """Returns the command line that started this run."""
    return shlex.join(["python", "-m", "hpm_jax.main", *sys.argv[1:]])


def finish_run(
    outcome: Outcome, workdir: Path, facts: list[str], explanation: str, console: Console
) -> int:
    """Writes `report.md`, and returns the exit code of the command.

    Args:
        facts, explanation: as in `write_report`.
    """
    write_report(workdir, command(), facts + outcome.facts, explanation)
    if not outcome.unfinished:
        console.say(f"done: read {workdir / 'report.md'}")
    return outcome.exit_code
