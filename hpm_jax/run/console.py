"""The console output of a run: a progress bar in a terminal, occasional lines elsewhere."""

import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hpm_jax.run.processes import is_main

QUIET_SECONDS = 15.0  # between lines without a terminal


class Console:
    """A progress bar over the steps of a run, with messages above it; one process prints."""

    def __init__(self) -> None:
        self.rich = RichConsole(highlight=False, soft_wrap=True, quiet=not is_main())
        self._progress: Progress | None = None
        self._last = 0.0

    def say(self, text: str) -> None:
        """Prints one line above the bar."""
        text = text.encode(errors="backslashreplace").decode()  # file names may not be valid text
        self.rich.print(text, markup=False)

    def start(self, steps: int, done: int, unit: str = "step") -> None:
        """Starts the bar over a number of steps, or of another `unit`."""
        self._unit = unit
        self._steps, self._first, self._began = steps, done, time.perf_counter()
        if self.rich.is_terminal:
            self._progress = Progress(
                TextColumn("{task.fields[place]}"),
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
                "", total=steps, completed=done, place=f"{unit} {done}", numbers=""
            )
            self._progress.start()

    def step(self, done: int, epoch: float | None, numbers: str) -> None:
        """Advances the bar; `epoch` is None for tasks without epochs."""
        place = f"{self._unit} {done}" if epoch is None else f"epoch {epoch:.1f}"
        if self._progress:
            self._progress.update(self._task, completed=done, place=place, numbers=numbers)
        elif time.perf_counter() - self._last > QUIET_SECONDS:
            self._last = time.perf_counter()
            seconds = (self._last - self._began) / max(done - self._first, 1)
            left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self._steps - done)))
            epochs = "" if epoch is None else f"  epoch {epoch:.1f}"
            self.say(f"{self._unit} {done}/{self._steps}{epochs}  left {left}  {numbers}")

    def stop(self) -> None:
        """Ends the bar."""
        if self._progress:
            self._progress.stop()
            self._progress = None
