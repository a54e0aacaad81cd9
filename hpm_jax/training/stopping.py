"""Stops that are asked for: SIGTERM and Ctrl-C end the run after the step, with a checkpoint."""

import contextlib
import signal
from collections.abc import Iterator
from signal import Signals


class StopRequest:
    """Whether, and by which signal, the run has been asked to stop."""

    signal: Signals | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended: 143 (SIGTERM), 130 (Ctrl-C)."""
        return 128 + self.signal if self.signal else 0


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Takes the signals while the block runs; a second Ctrl-C interrupts at once."""
    request = StopRequest()

    def take(number, _):
        if request.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = Signals(number)

    try:
        previous = {
            number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # not the main thread, as in some notebooks: nothing to take
        previous = {}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
