"""A long run of small steps, watched: memory, files, threads and the time of a step.

    python tests/faults/soak.py --steps 20000 --out results/soak.json

Two runs of the same steps, one that saves every hundred and one that never does. What grows without
end would show here: numbers are taken every 500 steps, after a warm-up of 1,000.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

EVERY = 500
WARM = 1000


def measure() -> dict[str, int]:
    """Of this process: resident MB, open files, threads, and objects of Python."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    gc.collect()
    return {
        "memory_mb": int(fields["VmRSS"].split()[0]) // 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(fields["Threads"]),
        "objects": len(gc.get_objects()),
    }


def soak(steps: int, save: bool) -> list[dict[str, float]]:
    """Trains, and measures on the way."""
    from small import small_config

    from hpm_jax.run import journal
    from hpm_jax.tasks.pretrain import pretrain

    # 25 steps an epoch
    epochs = -(-steps // 25)
    config = small_config(
        optimizer={"epochs": epochs, "warmup_epochs": 1.0},
        evaluation={"every_epochs": 0.0},
        run={"checkpoint_every_epochs": 4.0 if save else float(epochs), "log_every_steps": 10},
    )
    rows: list[dict[str, float]] = []
    began = time.perf_counter()
    step = journal.Journal.step

    def watched(self, done, *others):
        nonlocal began
        step(self, done, *others)
        if done % EVERY == 0:
            self.read()
            now = time.perf_counter()
            rows.append({"step": done, "ms": round(1e3 * (now - began) / EVERY, 2)} | measure())
            print(rows[-1], flush=True)
            began = time.perf_counter()

    journal.Journal.step = watched
    try:
        with tempfile.TemporaryDirectory() as folder:
            assert pretrain(config, folder) == 0
    finally:
        journal.Journal.step = step
    return rows


def growth(rows: list[dict[str, float]], name: str) -> float:
    """Per 1,000 steps: the slope of a straight line after the warm-up."""
    kept = [row for row in rows if row["step"] > WARM]
    steps, values = ([row[key] for row in kept] for key in ("step", name))
    return 1000 * statistics.linear_regression(steps, values).slope


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("results/soak.json"))
    parser.add_argument("--only", choices=("saving", "plain"))
    options = parser.parse_args()
    found = {}
    for name, save in (("plain", False), ("saving", True)):
        if options.only in (None, name):
            found[name] = soak(options.steps, save)
            watched = ("memory_mb", "files", "threads", "objects", "ms")
            grown = {key: growth(found[name], key) for key in watched}
            print(name, {key: round(value, 3) for key, value in grown.items()}, "per 1,000 steps")
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
