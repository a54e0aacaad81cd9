"""The time to the first training step of the quick start on a CPU, and page faults of its steps.

    python -m benchmarks.start_up --turns 3
    python -m benchmarks.start_up --turns 3 --before ../hpm_jax_before

Each turn starts the command twice with a compilation cache of its own: nothing compiled before,
then with the programs of the first run, which are not kept on Intel's CPUs, and with the allocator
of a second run. With `--before`, another checkout takes turns with this one. The run is watched
from outside, by its `metrics.jsonl` and `/proc` (Linux): wall-clock and CPU time of the process
from the command to the end of step 1, and minor page faults and CPU time of steps 7 to 30. A signal
stops it there. Medians of the turns are printed as Markdown.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FIRST, SETTLED, LAST = 1, 6, 30  # steps whose ends are read
TICKS = os.sysconf("SC_CLK_TCK")
COMMAND = [
    *(sys.executable, "-m", "hpm_jax.main", "--config", "configs/quickstart.py"),
    "--config.run.log_every_steps=1",
]
HEAD = ("run", "wall, s", "CPU, s", "page faults a step", "CPU a step, s", "of it system")


class Reading(NamedTuple):
    """What a process has used since its start."""

    wall: float  # seconds
    user: float  # seconds of CPU time
    system: float
    faults: int  # minor page faults

    @property
    def cpu(self) -> float:
        """Seconds of CPU time."""
        return self.user + self.system


def read(pid: int, began: float) -> Reading:
    """Reads what a process has used, from proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = (int(fields[i]) / TICKS for i in (11, 12))
    return Reading(time.monotonic() - began, user, system, int(fields[7]))


def steps_in(metrics: Path) -> int:
    """Returns the number of training steps in a `metrics.jsonl`, which may not exist yet."""
    text = metrics.read_text() if metrics.exists() else ""
    return sum('"loss":' in line for line in text.splitlines())


def watch(command: list[str], checkout: Path, cache: Path) -> dict[int, Reading]:
    """Runs a command of a checkout up to step `LAST`, and reads it at the end of three steps.

    Raises:
        RuntimeError: if the command ends earlier; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir, log = Path(folder) / "run", Path(folder) / "log"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
        found: dict[int, Reading] = {}
        with log.open("w") as output:
            began = time.monotonic()
            process = subprocess.Popen(
                [*command, f"--workdir={workdir}"],
                cwd=checkout,
                env=environment,
                stdout=output,
                stderr=output,
            )
            try:
                while LAST not in found:
                    done = steps_in(workdir / "metrics.jsonl")
                    reached = [step for step in (FIRST, SETTLED, LAST) if step <= done]
                    found |= {s: read(process.pid, began) for s in reached if s not in found}
                    if process.poll() is not None and LAST not in found:
                        raise RuntimeError(log.read_text()[-1000:])
                    time.sleep(0.005)
            finally:
                process.terminate()  # only a command that has ended makes the next a second run
                process.wait()
    return found


def numbers(found: dict[int, Reading]) -> list[float]:
    """Returns the columns after the first of a row of the table, unformatted."""
    steps = LAST - SETTLED
    first, settled, last = (found[step] for step in (FIRST, SETTLED, LAST))
    spent = last.cpu - settled.cpu
    system = (last.system - settled.system) / spent if spent else 0.0
    return [first.wall, first.cpu, (last.faults - settled.faults) / steps, spent / steps, system]


def row(name: str, turns: list[list[float]]) -> str:
    """Formats the medians of several turns as a row of the table."""
    wall, cpu, faults, step, system = (statistics.median(x) for x in zip(*turns, strict=True))
    return f"| {name} | {wall:.1f} | {cpu:.1f} | {faults:,.0f} | {step:.3f} | {system:.0%} |"


def main() -> None:
    """Measures in turns, and prints each run and then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="number of turns")
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    options = parser.parse_args()
    checkouts = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    table: dict[str, list[list[float]]] = {}
    for _ in range(options.turns):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as cache:
                for state in ("nothing compiled before", "the second run"):
                    found = numbers(watch(COMMAND, checkout, Path(cache)))
                    table.setdefault(f"{name}, {state}", []).append(found)
                    print(row(f"{name}, {state}", [found]), file=sys.stderr, flush=True)
    print("|", " | ".join(HEAD), "|")
    print("| --- |" + " --: |" * (len(HEAD) - 1))
    for name, turns in table.items():
        print(row(name, turns))


if __name__ == "__main__":
    main()
