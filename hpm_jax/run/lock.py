"""One run in a workdir at a time: the second is refused, and a crash leaves nothing to clean up."""

import atexit
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import IO, Any

from hpm_jax.storage import StorageError, is_local, reported

NAME = ".lock"
BEAT = 30.0  # seconds between signs of life in a bucket, which knows no locks
STALE = 5 * BEAT  # without a sign for so long, the other is dead

_held: dict[str, IO[str] | threading.Event] = {}  # by workdir, of this process


class WorkdirInUse(StorageError):
    """Another process works there; nothing was written."""

    exit_code = os.EX_TEMPFAIL  # 75: the same command may be tried later


def hold(workdir: Path) -> None:
    """Takes the workdir for this process until it ends, however it ends.

    In a folder the operating system keeps the lock, and drops it with the process. In a bucket an
    object says who is there and since when, and is written anew every `BEAT` seconds. To be called
    by the main process of a run alone; a second call of the same process changes nothing.

    Raises:
        WorkdirInUse: where another process holds it.
        StorageError: where nothing can be written.
    """
    name = str(workdir.resolve()) if is_local(workdir) else str(workdir)
    if name in _held:
        return
    with reported(workdir):
        _held[name] = _lock_folder(workdir) if is_local(workdir) else _lease(workdir)


def _lock_folder(workdir: Path) -> IO[str]:
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / NAME).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise _in_use(workdir, file.read()) from None
    file.truncate(0)
    file.write(json.dumps(_myself()))
    file.flush()
    return file


def _lease(workdir: Path) -> threading.Event:
    there, mine = workdir / NAME, _myself()
    if there.exists():
        found = _parsed(there.read_text())
        if time.time() - found.get("time", 0.0) < STALE and not _same(found, mine):
            raise _in_use(workdir, json.dumps(found))
    there.write_text(json.dumps(mine))
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            there.write_text(json.dumps(_myself()))

    threading.Thread(target=beat, daemon=True).start()

    def leave() -> None:
        done.set()
        there.unlink(missing_ok=True)

    atexit.register(leave)
    return done


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid(), "time": time.time()}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ("host", "process"))


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(workdir: Path, text: str) -> WorkdirInUse:
    found = _parsed(text)
    who = f"process {found['process']} on {found['host']}" if "process" in found else "another one"
    return WorkdirInUse(
        f"{workdir} is in use by {who}: wait until it has ended, stop it, or give this run another "
        "--workdir"
    )
