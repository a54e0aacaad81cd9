"""Stop requests: SIGTERM and Ctrl-C end the run after the current step, with a checkpoint."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from signal import Signals

import jax

from hpm_jax import signals
from hpm_jax.run.processes import preempted

APART = 1.0  # seconds: launchers may send one signal twice, to a process and to its group


class StopRequest:
    """Whether a stop has been requested, and by which signal."""

    signal: Signals | None = None

    def __init__(self, grace: float = 0.0):
        """Takes `grace`, the seconds until a run that does not stop is ended; 0 for no limit."""
        self.grace = grace
        self._first = 0.0
        self._over: threading.Timer | None = None

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; several processes agree on one step."""
        if preempted(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

    @property
    def now(self) -> bool:
        """Whether to stop before the next step; only a single process can decide this."""
        return self.signal is not None and jax.process_count() == 1

    def take(self, number: int) -> None:
        """Handles a signal: the first requests a stop; a second, or the end of the grace, exits."""
        if self.signal is None:
            self.signal, self._first = Signals(number), time.monotonic()
            if self.grace:
                self._over = threading.Timer(self.grace, self._end, (number,))
                self._over.daemon = True
                self._over.start()
        elif time.monotonic() - self._first > APART:
            self._end(number)

    def ended(self) -> None:
        """Records that the run is over, and cancels the grace period."""
        if self._over:
            self._over.cancel()

    def _end(self, number: int) -> None:
        seconds = time.monotonic() - self._first
        message = f"the run had not stopped {seconds:.0f} s after the signal: it ends as it is"
        print(message, file=sys.stderr, flush=True)
        signals.end_at_once(number)

    @property
    def exit_code(self) -> int:
        """The exit code that a shell expects after a signal: 143 (SIGTERM), 130 (Ctrl-C)."""
        return 128 + self.signal if self.signal else 0


@contextlib.contextmanager
def stop_requests(grace: float = 0.0) -> Iterator[StopRequest]:
    """Handles signals while the block runs.

    In the command a second signal, or the end of `grace` seconds after the first, ends the
    process; in a notebook a second Ctrl-C interrupts the cell. With several processes JAX handles
    SIGTERM and notifies all of them.
    """
    request = StopRequest(grace if signals.listening() else 0.0)
    if signals.listening():
        with signals.taken(request.take):
            try:
                yield request
            finally:
                request.ended()
        return
    numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)

    def take(number, _):
        if request.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = Signals(number)

    try:
        previous = {number: signal.signal(number, take) for number in numbers}
    except ValueError:  # not the main thread, as in some notebooks: no signals
        previous = {}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
