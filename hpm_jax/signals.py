"""Handles SIGTERM and Ctrl-C of the command in a thread, even while the main thread is blocked.

Python runs a signal handler in the main thread, after that returns from native code such as the
compiler or a stalled read from a network disk. A thread does not wait for it.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

NUMBERS = (signal.SIGTERM, signal.SIGINT)
EXIT_SECONDS = 10.0  # for cleaning up at exit, such as joining threads

Take = Callable[[int], None]


def end_at_once(number: int) -> None:
    """Exits with the code that a shell expects: 143 for SIGTERM, 130 for Ctrl-C."""
    os._exit(128 + number)


_takers: list[Take] = []  # the last one receives the signals; empty if there is no listener


def listen() -> None:
    """Makes a signal end the process until a run handles signals. Call it in the main thread."""
    if _takers:
        return
    _takers.append(end_at_once)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    threading.Thread(target=_serve, args=(reader, writer), daemon=True).start()
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in NUMBERS:
        # a container's first process would otherwise ignore SIGTERM
        signal.signal(number, _leave_to_thread)


def listening() -> bool:
    """Whether signals are handled here: in the command, but not in a notebook."""
    return bool(_takers)


@contextlib.contextmanager
def taken(take: Take) -> Iterator[None]:
    """Calls `take(number)` in a thread for each signal while the block runs."""
    _takers.append(take)
    try:
        yield
    finally:
        _takers.remove(take)


def end_within(seconds: float, code: int) -> None:
    """Ends the process with `code` after `seconds` if it is still running.

    Otherwise threads stuck in a read, or processes that wait for each other, would keep it alive.
    """
    timer = threading.Timer(seconds, _end, (code,))
    timer.daemon = True
    timer.start()


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _serve(reader: socket.socket, _writer: socket.socket) -> None:
    while True:
        for number in reader.recv(64):
            if number in NUMBERS:
                _takers[-1](number)


def _leave_to_thread(number: int, _frame: object) -> None:
    """Replaces the default handler, which would end the process; a thread handles the signal."""
