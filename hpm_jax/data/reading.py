"""Interruptible reading of batches: a stalled disk does not block, a dead worker is an error."""

import contextlib
import errno
import gc
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator
from multiprocessing import util
from typing import Any

from hpm_jax.errors import UserError
from hpm_jax.run.library_log import hide_unraisable

POLL_SECONDS = 0.1  # interval at which a wait checks for interruption
CLOSE_SECONDS = 5.0  # time for workers to end; a stuck worker ends with the run
END_SECONDS, FIRST = 30.0, 10**6  # the same at the end of the process, before other finalizers


class WorkerError(UserError, RuntimeError):
    """A worker process has died, or cannot be started."""


SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # files, processes, memory


class Reader(Iterator[Any]):
    """Iterator over grain batches that waits in a thread, so that the caller can be interrupted.

    A thread per batch costs a tenth of a millisecond, and no thread remains when a reader is
    discarded.
    """

    def __init__(self, batches: Any):
        self._batches = batches
        self._pending: _Pending | None = None

    def __next__(self) -> Any:
        return self.take(lambda: False)

    def take(self, interrupted: Callable[[], bool]) -> Any | None:
        """Returns the next batch; None if `interrupted` became true before it was ready.

        Raises:
            WorkerError: if a worker process has died, or cannot be started.
            StopIteration: after the last batch.
        """
        if self._pending is None:
            self._pending = _Pending(self._batches)
        while not self._pending.done.wait(POLL_SECONDS):
            if interrupted():
                return None
        pending, self._pending = self._pending, None
        if pending.error is None:
            return pending.batch
        if interrupted():  # a signal to the group ends workers that are still starting
            return None
        raise _explained(pending.error)

    def close(self) -> None:
        """Ends background threads and workers; stuck ones end with the process."""
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        # grain ends its workers at the end of the process too, and not while this thread does
        if closing.is_alive() and multiprocessing.active_children():
            util.Finalize(None, closing.join, (END_SECONDS,), exitpriority=FIRST)

    def _close(self) -> None:
        with contextlib.suppress(Exception):  # workers that were never started
            self._batches.close()


class _Pending:
    """One batch that is being read."""

    def __init__(self, batches: Any):
        self.batch: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        threading.Thread(target=self._read, args=(batches,), daemon=True).start()

    def _read(self, batches: Any) -> None:
        try:
            self.batch = next(batches)
        except BaseException as error:
            self.error = error
        self.done.set()


def _forget_unstarted() -> None:
    """Makes grain forget the workers that it could not start; at its end it would join them."""
    for one in gc.get_objects():
        if type(one).__name__ == "ProcessPrefetchDatasetIterator":
            process = getattr(one, "_prefetch_process", None)
            if process is not None and getattr(process, "_popen", True) is None:
                one._prefetch_process = None


def _explained(error: BaseException) -> BaseException:
    """Converts errors about dead workers, or too many workers, to a `WorkerError`."""
    if isinstance(error, OSError) and error.errno in SCARCE:
        hide_unraisable("can only join a started process")
        _forget_unstarted()
        scarce = WorkerError(
            f"no process to decode images can be started ({os.strerror(error.errno)}): lower "
            "config.run.workers, or raise the limits of the machine (ulimit -n, ulimit -u)"
        )
        scarce.__cause__ = error
        return scarce
    found = re.search(r"Worker process was terminated .* exit code (-?\d+)", str(error))
    if not (isinstance(error, RuntimeError) and found):
        return error
    number = int(found[1])
    how = f"killed by signal {-number}" if number < 0 else f"exit code {number}"
    explained = WorkerError(
        f"a worker process that decodes images has ended ({how}); where the machine ran out of "
        "memory, lower config.run.workers or config.run.prefetch. The same command goes on from "
        "the newest checkpoint"
    )
    explained.__cause__ = error
    return explained
