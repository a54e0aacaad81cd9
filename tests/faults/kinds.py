"""The faults: each does its damage to a run that goes on, or to the workdir between two starts.

A fault of a process is `(process, workdir, rng) -> None`, and is called when its moment has come.
A fault of a workdir is `(workdir, rng) -> Callable | None`: what it gives takes the damage back,
for those that a person has to repair.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

Process = subprocess.Popen
Undo = Callable[[], None] | None


# --- of a process


def kill(process: Process, workdir: Path, rng: random.Random) -> None:
    """The process alone, as the kernel does where memory is short; its workers are left."""
    process.kill()


def kill_group(process: Process, workdir: Path, rng: random.Random) -> None:
    """The process and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)


def terminate(process: Process, workdir: Path, rng: random.Random) -> None:
    """SIGTERM, as a scheduler sends it."""
    process.terminate()


def interrupt(process: Process, workdir: Path, rng: random.Random) -> None:
    """Ctrl-C in a terminal, which the whole group gets."""
    os.killpg(process.pid, signal.SIGINT)


def terminate_twice(process: Process, workdir: Path, rng: random.Random) -> None:
    """SIGTERM to the whole group, and again."""
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(rng.uniform(0.0, 0.2))


def freeze(process: Process, workdir: Path, rng: random.Random) -> None:
    """SIGSTOP for a second or two, as a suspended machine; then a kill."""
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 2.0))
    os.killpg(process.pid, signal.SIGCONT)
    time.sleep(rng.uniform(0.0, 0.5))
    process.kill()


def kill_worker(process: Process, workdir: Path, rng: random.Random) -> None:
    """One process that loads images."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    numbers = children.read_text().split() if children.exists() else ()
    # Python's own resource tracker is a child too, and loads nothing
    command = {int(n): Path(f"/proc/{n}/cmdline").read_bytes() for n in numbers}
    found = [number for number in command if b"resource_tracker" not in command[number]]
    if found:
        os.kill(rng.choice(found), signal.SIGKILL)
    else:
        process.kill()


# --- of a workdir


def _newest(workdir: Path) -> Path | None:
    steps = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, key=lambda path: int(path.name), default=None)


def _file_of_newest(workdir: Path, rng: random.Random) -> Path | None:
    newest = _newest(workdir)
    files = (
        sorted(x for x in newest.rglob("*") if x.is_file() and x.stat().st_size) if newest else []
    )
    return rng.choice(files) if files else None


def flip_a_bit(workdir: Path, rng: random.Random) -> Undo:
    """In some file of the newest checkpoint."""
    if path := _file_of_newest(workdir, rng):
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return None


def cut_a_file(workdir: Path, rng: random.Random) -> Undo:
    """Of the newest checkpoint, somewhere."""
    if path := _file_of_newest(workdir, rng):
        os.truncate(path, rng.randrange(path.stat().st_size))
    return None


def lose_a_file(workdir: Path, rng: random.Random) -> Undo:
    """Of the newest checkpoint."""
    if path := _file_of_newest(workdir, rng):
        path.unlink()
    return None


def empty_future_step(workdir: Path, rng: random.Random) -> Undo:
    """A folder of a later step with nothing in it, as a crashed machine may leave."""
    (workdir / "checkpoints" / "100000").mkdir(parents=True, exist_ok=True)
    return None


def damaged_lines(workdir: Path, rng: random.Random) -> Undo:
    """In `metrics.jsonl`: the last line cut, and bytes that are no text."""
    path = workdir / "metrics.jsonl"
    if path.exists() and path.stat().st_size > 20:
        os.truncate(path, path.stat().st_size - rng.randrange(1, 20))
        with path.open("ab") as file:
            file.write(b"\xff\x00{\n")
    return None


def stale_lock(workdir: Path, rng: random.Random) -> Undo:
    """The lock of a process that is gone."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / ".lock").write_text(json.dumps({"host": "elsewhere", "process": 1}))
    return None


def cut_config(workdir: Path, rng: random.Random) -> Undo:
    """`config.json` cut short; a person puts it back."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randrange(len(whole) - 2)])
    return lambda: path.write_bytes(whole) and None


def read_only(workdir: Path, rng: random.Random) -> Undo:
    """The checkpoints cannot be written: a file stands where their folder should be."""
    folder, aside = workdir / "checkpoints", workdir.with_suffix(".aside")
    if not folder.exists():
        return None
    folder.rename(aside)
    folder.write_text("no folder")

    def undo() -> None:
        folder.unlink()
        aside.rename(folder)

    return undo


OF_PROCESSES = (kill, kill_group, terminate, interrupt, terminate_twice, freeze, kill_worker)
OF_WORKDIRS = (
    flip_a_bit,
    cut_a_file,
    lose_a_file,
    empty_future_step,
    damaged_lines,
    stale_lock,
    cut_config,
    read_only,
)
# --- of the machine: how the next start differs from the last
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "no room for files": {"FAULT_FILE_SIZE": "20000"},
    "few file descriptors": {"FAULT_FILES": "40"},
    "another clock": {"FAULT_CLOCK": "-86400"},
    "a slow disk": {"FAULT_SLOW": "0.05"},
    "other devices": {"JAX_NUM_CPU_DEVICES": "4"},
}
