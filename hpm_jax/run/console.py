"""What a person sees while a run goes on: a bar in a terminal, a line now and then elsewhere."""

import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hpm_jax.run.processes import is_main

QUIET_SECONDS = 15.0  # between lines where there is no terminal


class Console:
    """A progress bar over the steps of a run, with sentences above it; one process speaks."""

    def __init__(self) -> None:
        self.rich = RichConsole(highlight=False, soft_wrap=True, quiet=not is_main())
        self._progress: Progress | None = None
        self._last = 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        self.rich.print(text, markup=False)

    def start(self, steps: int, done: int) -> None:
        """Begins the bar."""
        self._steps, self._first, self._began = steps, done, time.perf_counter()
        if self.rich.is_terminal:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=30),
                TextColumn("{task.percentage:3.0f}% "),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=self.rich,
                refresh_per_second=4,
            )
            self._task = self._progress.add_task(
                "", total=steps, completed=done, epoch="0", numbers=""
            )
            self._progress.start()

    def step(self, done: int, epoch: float, numbers: str) -> None:
        """Moves the bar."""
        if self._progress:
            self._progress.update(self._task, completed=done, epoch=f"{epoch:.1f}", numbers=numbers)
        elif time.perf_counter() - self._last > QUIET_SECONDS:
            self._last = time.perf_counter()
            seconds = (self._last - self._began) / max(done - self._first, 1)
            left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self._steps - done)))
            self.say(f"step {done}/{self._steps}  epoch {epoch:.1f}  left {left}  {numbers}")

    def stop(self) -> None:
        """Ends the bar."""
        if self._progress:
            self._progress.stop()
            self._progress = None
