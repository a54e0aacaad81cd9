"""The watcher of a run's first steps, on a program that writes the same file."""

import os
import sys

import pytest

from benchmarks import start_up
from benchmarks.start_up import Reading, numbers, row, steps_in, watch

PROGRAM = """
import json, pathlib, sys, time
workdir = pathlib.Path(sys.argv[1].removeprefix("--workdir="))
workdir.mkdir()
kept = []
with (workdir / "metrics.jsonl").open("w") as file:
    print(json.dumps({"step": 0, "test/loss": 1.0}), file=file, flush=True)
    for step in range(1, 31):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        kept.append(b"x" * 2**20)
        print(json.dumps({"step": step, "loss": 1.0}), file=file, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_run_is_read_at_three_steps(tmp_path):
    found = watch([sys.executable, "-c", PROGRAM], tmp_path, tmp_path)
    assert list(found) == [1, 6, 30]
    assert found[1].wall < found[6].wall < found[30].wall
    assert found[30].cpu - found[6].cpu >= 24 * 0.02 - 0.05
    assert found[30].faults - found[6].faults >= 23 * 2**20 // os.sysconf("SC_PAGE_SIZE")


def test_a_run_that_ends_early_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="no such module"):
        watch([sys.executable, "-c", "raise SystemExit('no such module')"], tmp_path, tmp_path)


def test_only_training_steps_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert steps_in(path) == 0
    path.write_text('{"step": 0, "test/loss": 1.0}\n{"step": 1, "loss": 1.0}\n')
    assert steps_in(path) == 1


def test_numbers_and_medians():
    found = {1: Reading(5.0, 3.0, 1.0, 9), 6: Reading(6.0, 4.0, 2.0, 100)}
    found[30] = Reading(8.0, 7.0, 3.0, 2500)
    assert numbers(found) == [5.0, 4.0, 100.0, 4 / 24, 0.25]
    turns = [[1.0, 2.0, 3.0, 0.5, 0.5], [2.0, 2.0, 3000.0, 0.5, 0.5], [9.0, 2.0, 9000.0, 0.5, 0.5]]
    assert row("now", turns) == "| now | 2.0 | 2.0 | 3,000 | 0.500 | 50% |"
    assert len(start_up.HEAD) == row("now", turns).count("|") - 1
