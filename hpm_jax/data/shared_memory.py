"""Shared memory of a run's workers, named after the run so that the next run can clean up.

Batches are passed in files of `/dev/shm`. A helper process of Python removes leftovers, unless it
is killed together with the run.
"""

import contextlib
import fcntl
import functools
import secrets
from multiprocessing import shared_memory, util
from pathlib import Path
from typing import IO

FOLDER = Path("/dev/shm")
PREFIX = "hpm_jax_"


@functools.cache
def claim() -> str:
    """Returns the prefix of this run's shared memory, or ""; removes leftovers of dead runs.

    A lock marks a living run. The operating system releases it however the run ends. Unlike process
    ids, it is also valid for other containers that share the folder.
    """
    if not FOLDER.is_dir():
        return ""
    remove_leftovers()
    name = f"{PREFIX}{secrets.token_hex(4)}"
    try:
        file = (FOLDER / f"{name}.lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a full or read-only folder is reported when memory is needed
        return ""
    _locks.append(file)
    util.Finalize(None, release, exitpriority=-1)  # after the finalizers of the workers
    return f"{name}_"


_locks: list[IO[str]] = []  # held until this process exits


def remove_leftovers() -> None:
    """Removes the shared memory of runs that ended without cleaning up."""
    for lock in FOLDER.glob(f"{PREFIX}*.lock"):
        with contextlib.suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the run is alive
            for left in FOLDER.glob(f"{lock.stem}_*"):
                left.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def release() -> None:
    """Removes the shared memory and the lock of this run at its normal end."""
    while _locks:
        _locks.pop().close()
    remove_leftovers()
    claim.cache_clear()


def use_prefix(prefix: str) -> None:
    """Names this process's shared memory after the run; call it in workers.

    Python has no public way to choose the names of grain's arrays. If its internals change, the
    names stay as they were and are not cleaned up.
    """
    if prefix and hasattr(shared_memory, "_SHM_NAME_PREFIX"):
        vars(shared_memory)["_SHM_NAME_PREFIX"] = f"/{prefix}"
        vars(shared_memory)["_SHM_SAFE_NAME_LENGTH"] = len(prefix) + 17  # eight random bytes more
