"""Stops that are asked for: SIGTERM and Ctrl-C end the run after the step, with a checkpoint."""

import contextlib
import signal
from collections.abc import Iterator
from signal import Signals

import jax

from hpm_jax.run.processes import preempted


class StopRequest:
    """Whether, and by which signal, the run has been asked to stop."""

    signal: Signals | None = None

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; several processes agree on one step."""
        if preempted(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended: 143 (SIGTERM), 130 (Ctrl-C)."""
        return 128 + self.signal if self.signal else 0


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Takes the signals while the block runs; a second Ctrl-C interrupts at once.

    With several processes SIGTERM is left to JAX, which tells all of them.
    """
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)

    def take(number, _):
        if request.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = Signals(number)

    try:
        previous = {number: signal.signal(number, take) for number in numbers}
    except ValueError:  # not the main thread, as in some notebooks: nothing to take
        previous = {}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
