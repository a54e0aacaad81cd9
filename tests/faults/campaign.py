"""Real runs, real faults, one after the other, until enough have been survived.

    python tests/faults/campaign.py --faults 300 --seed 0 --out results/faults.json

A run is started, harmed and started again by the same command until it has ended; then another one
begins. It has to end with the numbers of a run that nobody has disturbed, bit for bit. A fault of a
process comes while the run starts, trains or saves; a fault of a workdir or of a machine comes
between two starts. What cannot go on by itself (a full disk, a file that is cut) has to end with
one sentence, and to go on when it is repaired.
"""

import argparse
import collections
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import kinds

ROOT = Path(__file__).parents[2]
HANG = 400.0  # seconds for a start that nobody disturbs any more
PHASES = ("starting", "training", "saving")
LIKELY = (1, 2, 2)  # most faults come while a run trains or saves
TIMES = {"seconds", "images_per_second", "mfu", "data_wait"}
CONFIG = f"""
import sys

sys.path.insert(0, {str(ROOT / "tests")!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.update(epochs=6, batch_size=128)
    config.evaluation.update(every_epochs=3.0, test_images=64)
    config.run.update(checkpoint_every_epochs=0.25, log_every_steps=1)
    return config
"""


class Campaign:
    """A folder, a command, and the numbers that every run has to end with."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.py").write_text(CONFIG)
        (folder / "site").mkdir(exist_ok=True)
        shutil.copy(Path(__file__).with_name("machine.py"), folder / "site" / "sitecustomize.py")
        self.reference = self._run_undisturbed()

    def start(self, workdir: Path, workers: int, **machine: str) -> subprocess.Popen:
        """The command of a run, in a process group of its own."""
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(self.folder / "site"),
        }
        env.pop("XLA_FLAGS", None)
        command = [sys.executable, "-m", "hpm_jax.main", f"--config={self.folder / 'config.py'}"]
        options = [f"--workdir={workdir}", f"--config.run.workers={workers}"]
        log = (self.folder / "output.txt").open("w")
        return subprocess.Popen(
            command + options,
            cwd=ROOT,
            env=env | machine,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        """What the last start has said."""
        return (self.folder / "output.txt").read_text(errors="replace")

    def end(self, process: subprocess.Popen) -> int | None:
        """The exit code; None for a start that hangs, and is killed."""
        try:
            return process.wait(HANG)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None

    def _run_undisturbed(self) -> dict[str, Any]:
        workdir = self.folder / "undisturbed"
        shutil.rmtree(workdir, ignore_errors=True)
        code = self.end(self.start(workdir, 0))
        assert code == 0, self.output()
        return ending_of(workdir)


def ending_of(workdir: Path) -> dict[str, Any]:
    """Every number of a run that is no time, and the checksums of its last state."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", DIGEST, str(workdir)],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    return {"lines": lines, "state": done.stdout.splitlines()[-1]}


DIGEST = """
import sys
from hpm_jax.run.digest import digest
from hpm_jax.run.load import load_run
state = load_run(sys.argv[1]).state
print(int(state.step), digest((state.params, state.teacher, state.optimizer)).tolist())
"""


def agree(found: dict[str, Any], reference: dict[str, Any], suffered: set[str]) -> bool:
    """Whether a run has ended with the numbers of the reference: bit for bit.

    Args:
        suffered: the faults of the run. After other devices numbers agree within rounding; lines
            that a fault has damaged may be missing, the others may not differ.
    """
    lines = reference["lines"]
    if "other devices" in suffered:
        whole = "damaged_lines" in suffered or len(found["lines"]) == len(lines)
        near = all(any(is_near(line, other) for other in lines) for line in found["lines"])
        return whole and near and found["state"].split()[0] == reference["state"].split()[0]
    if "damaged_lines" in suffered:
        there = all(line in lines for line in found["lines"])
        return there and found["state"] == reference["state"]
    return found == reference


def is_near(line: dict[str, float], other: dict[str, float]) -> bool:
    """Whether two lines are of one step, and agree within five per cent."""
    if line.keys() != other.keys() or line["step"] != other["step"]:
        return False
    return all(abs(line[name] - other[name]) <= 0.05 * max(abs(other[name]), 1.0) for name in line)


def wait_for(phase: str, process: subprocess.Popen, workdir: Path, rng: random.Random) -> None:
    """Until the run is in that phase, and a random moment longer; less where it ends before."""
    until = time.monotonic() + HANG
    metrics, saved = workdir / "metrics.jsonl", workdir / "checkpoints"
    size = metrics.stat().st_size if metrics.exists() else 0

    def there() -> bool:
        if phase == "training":
            return metrics.exists() and metrics.stat().st_size > size
        return any(".orbax-checkpoint-tmp" in path.name for path in saved.glob("*"))

    if phase == "starting":
        time.sleep(rng.uniform(0.0, 6.0))
        return
    while process.poll() is None and time.monotonic() < until and not there():
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.02 if phase == "saving" else 1.0))


def orphans_of(group: int) -> list[int]:
    """Processes of a group whose leader has ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def last_step(workdir: Path) -> int:
    """The last step that was written down."""
    steps = [0]
    path = workdir / "metrics.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            steps.append(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return max(steps)


def gone_on_from(output: str) -> int | None:
    """The step that a start says it goes on from."""
    marked = [line for line in output.splitlines() if line.startswith("going on from step ")]
    return int(marked[-1].split()[4]) if marked else None


def without_folders(text: str) -> str:
    """The text without the folders of this machine: the last two parts of each path stay."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+(?=[\w.+-]+/[\w.+-]+)", "", text)


def leftovers() -> set[str]:
    """Shared memory of runs that have ended, by name; a run that lives holds its lock."""
    names = {path.name for path in Path("/dev/shm").glob("hpm_jax_*")}
    return {x for x in names if not x.endswith(".lock") and not lives("_".join(x.split("_")[:3]))}


def lives(run: str) -> bool:
    """Whether another process holds the lock of a run's shared memory."""
    try:
        with Path(f"/dev/shm/{run}.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def campaign(folder: Path, faults: int, seed: int, write: Any) -> list[dict[str, Any]]:
    """Runs `faults` faults; `write` gets the list after each.

    Each entry has what was done (`kind`, `phase`), the exit code, and `outcome`:
    `survived`, or what was wrong: `hang`, `traceback`, `orphans`, `other numbers`, `not resumed`.
    """
    there = Campaign(folder)
    found: list[dict[str, Any]] = []
    run, number, workdir = 0, 0, folder / "run_0"
    undo: kinds.Undo = None
    suffered: set[str] = set()  # by this run
    while number < faults:
        rng = random.Random(f"{seed}.{number}")
        family = rng.choices(("process", "workdir", "machine"), (9, 3, 1))[0]
        entry: dict[str, Any] = {"number": number, "run": run}
        before = last_step(workdir)
        workers = rng.choice((0, 0, 1, 2))
        machine: dict[str, str] = {}
        if family == "workdir" and before:
            fault = rng.choice(kinds.OF_WORKDIRS)
            undo = fault(workdir, rng)
            entry |= {"kind": fault.__name__, "phase": "stopped"}
        elif family == "machine":
            kind = rng.choice(sorted(kinds.ENVIRONMENTS))
            machine = kinds.ENVIRONMENTS[kind]
            entry |= {"kind": kind, "phase": "whole"}
        else:
            family, fault = "process", rng.choice(kinds.OF_PROCESSES)
            phase = rng.choices(PHASES, LIKELY)[0]
            entry |= {"kind": fault.__name__, "phase": phase}
            workers = max(workers, fault is kinds.kill_worker)

        suffered.add(entry["kind"])
        began = time.monotonic()
        process = there.start(workdir, int(workers), **machine)
        if family == "process":
            wait_for(phase, process, workdir, rng)
            late = process.poll() is not None
            if not late:
                fault(process, workdir, rng)
        elif before:  # a start on damage goes on for a while, and is stopped
            wait_for("training", process, workdir, rng)
            late = False
            process.terminate()
        else:
            late = False
        code = there.end(process)
        output = there.output()
        entry |= {"code": code, "seconds": round(time.monotonic() - began, 1)}
        resumed = gone_on_from(output)
        if resumed is not None:
            entry["lost"] = max(before - resumed, 0)
        problems = []
        if code is None:
            problems.append("hang")
        if "Traceback (most recent call last)" in output:
            problems.append("traceback")
        time.sleep(0.3)
        if orphans_of(process.pid):
            time.sleep(3.0)  # workers see the end of their run, and follow
            if orphans_of(process.pid):
                problems.append("orphans")
                os.killpg(process.pid, signal.SIGKILL)
        if undo:
            undo()
            undo = None
        if code == 0:
            if leftovers():  # the run that ended well has cleaned up for those before it
                problems.append("shared memory left")
            if not agree(ending_of(workdir), there.reference, suffered):
                problems.append("other numbers")
            shutil.rmtree(workdir)
            run, suffered = run + 1, set()
            workdir = folder / f"run_{run}"
        if problems:
            entry["output"] = without_folders(output[-3000:])
            if code is None:  # begin afresh
                shutil.rmtree(workdir, ignore_errors=True)
                run, suffered = run + 1, set()
                workdir = folder / f"run_{run}"
        if late and not problems:
            seed += 1_000_003  # the run had ended: no fault was done
            continue
        entry["outcome"] = ", ".join(problems) or "survived"
        found.append(entry)
        number += 1
        write(found)
    # the run that was harmed last has to end well, too
    code = there.end(there.start(workdir, 0))
    well = code == 0 and agree(ending_of(workdir), there.reference, suffered)
    found.append(
        {"number": number, "run": run, "kind": "none", "phase": "whole", "code": code,
         "outcome": "survived" if well
         else f"not resumed: {without_folders(there.output()[-2000:])}"}
    )  # fmt: skip
    write(found)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Counts by kind and phase, as Markdown."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    lost: dict[str, int] = collections.Counter()
    for entry in found:
        kind = entry["kind"].replace("_", " ")
        rows[kind][entry["phase"]] += 1
        rows[kind]["survived"] += entry["outcome"] == "survived"
        rows[kind]["bad"] += entry["outcome"] != "survived"
        lost[kind] = max(lost[kind], entry.get("lost", 0))
    head = ("starting", "training", "saving", "stopped", "whole")
    lines = [
        f"| fault | {' | '.join(head)} | survived | not | most steps lost |",
        "| --- |" + " --: |" * (len(head) + 3),
    ]
    for kind in sorted(rows):
        cells = [str(rows[kind][phase] or "") for phase in head]
        counts = (rows[kind]["survived"], rows[kind]["bad"], lost[kind])
        lines.append(f"| {kind} | {' | '.join(cells)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/faults.json"))
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()

    def write(found: list[dict[str, Any]]) -> None:
        text = json.dumps({"seed": options.seed, "faults": found}, indent=1)
        options.out.write_text(text + "\n")

    with tempfile.TemporaryDirectory() as temporary:
        found = campaign(options.folder or Path(temporary), options.faults, options.seed, write)
    print(table(found))
    sys.exit(any(entry["outcome"] != "survived" for entry in found))


if __name__ == "__main__":
    main()
