"""Locks a workdir: a second run is refused, and a crash leaves nothing to clean up."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

from hpm_jax.storage import StorageError, is_local, reported

NAME = ".lock"
BEAT = 30.0  # seconds between heartbeats in a bucket, which has no locks
STALE = 5 * BEAT  # age of a heartbeat from which its process counts as dead


class Lease(NamedTuple):
    """A workdir in a bucket that this process holds."""

    there: Path
    done: threading.Event  # set when the lease is released


_held: dict[str, IO[str] | Lease] = {}  # by workdir, of this process


class WorkdirInUse(StorageError):
    """Another process uses the workdir; nothing was written."""

    exit_code = os.EX_TEMPFAIL  # 75: the same command may be tried later


def hold(workdir: Path) -> None:
    """Locks the workdir for this process until it exits, however it exits.

    In a folder the operating system holds the lock and releases it with the process. In a bucket an
    object names the holder and the time, and is rewritten every `BEAT` seconds. Only the main
    process of a run calls this; a second call in the same process has no effect.

    Raises:
        WorkdirInUse: if another process holds it.
        StorageError: if nothing can be written.
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


def release_all() -> None:
    """Releases every workdir that this process holds, while the network is still usable.

    During Python's shutdown no thread can be started any more. A lease in a bucket that is not
    released counts as held for another `STALE` seconds.
    """
    for held in _held.values():
        if isinstance(held, Lease):
            held.done.set()
            with contextlib.suppress(Exception):  # if the bucket fails, the lease becomes stale
                held.there.unlink(missing_ok=True)
        else:
            held.close()
    _held.clear()


def _lease(workdir: Path) -> Lease:
    there, mine = workdir / NAME, _myself()
    if there.exists():
        found = _parsed(there.read_text())
        if time.time() - found.get("time", 0.0) < STALE and not _same(found, mine):
            raise _in_use(workdir, json.dumps(found))
    there.write_text(json.dumps(mine))
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(
                Exception
            ):  # a bucket may fail temporarily: retry at the next beat
                there.write_text(json.dumps(_myself()))

    threading.Thread(target=beat, daemon=True).start()
    return Lease(there, done)


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
