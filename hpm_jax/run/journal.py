"""Logs metrics; those of a step are read one step late, so that devices never wait for the host."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

from hpm_jax.run.console import Console
from hpm_jax.run.metrics import MetricsWriter, read_lines
from hpm_jax.run.throughput import Meter, peak_flops
from hpm_jax.step.schedules import Timetable
from hpm_jax.step.update import Metrics

Numbers = dict[str, float]


Bad = Callable[[int, Numbers, Any], None]  # step, its numbers and its batch


class Journal:
    """Logs metrics: writes some steps, shows all on the console, and reports bad ones."""

    def __init__(
        self,
        timetable: Timetable,
        flops: Callable[[Any], float],
        summary: Callable[[Numbers, Any], str],
        writer: MetricsWriter,
        console: Console,
        every: int,
        bad: Bad,
    ):
        """Takes the task-specific parts as functions of a step's schedule.

        Args:
            flops: operations per image.
            summary: formats the numbers of a step for the console.
            every: number of steps between lines in `metrics.jsonl`.
            bad: called for a step whose loss is not finite, or that has skipped its update.
        """
        self.timetable, self.flops, self.every = timetable, flops, every
        self.summary, self.bad = summary, bad
        self.writer, self.console = writer, console
        self.peak, self.peak_source = peak_flops()
        self.meter = Meter()
        self._pending: tuple[int, Any, Metrics, Any] | None = None
        self._rates: dict[str, float] = {}
        before = [line["seconds"] for line in read_lines(writer.path) if "seconds" in line]
        self._began = time.time() - (before[-1] if before else 0.0)

    @property
    def seconds(self) -> float:
        """Elapsed seconds, excluding stops."""
        return time.time() - self._began

    def step(self, done: int, schedule: Any, metrics: Metrics, batch: Any) -> None:
        """Records that the step number `done` has started; reads the previous one."""
        self.read()
        images = self.timetable.batch_size
        self.meter.step(images, self.flops(schedule) * images)
        self._pending = (done, schedule, metrics, batch)

    def pass_over(self, done: int) -> None:
        """Records that the step number `done` is skipped; reads the previous one."""
        self.read()
        self.writer.write(done, {"epoch": self.timetable.epoch(done), "passed_over": 1.0})

    def read(self) -> None:
        """Waits for the last step, and writes its metrics."""
        if self._pending is None:
            return
        (done, schedule, metrics, batch), self._pending = self._pending, None
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        epoch = self.timetable.epoch(done)
        if not math.isfinite(numbers["loss"]) or numbers.get("passed_over"):
            self.bad(done, numbers | self.timetable.numbers(schedule), batch)
            self.writer.write(done, {"epoch": epoch, "passed_over": 1.0})
            return
        if done % self.every == 0:
            self._rates = self.meter.read(self.peak)
            state = self.timetable.numbers(schedule) | {"seconds": round(self.seconds, 2)}
            self.writer.write(done, {"epoch": epoch} | numbers | state | self._rates)
        parts = [self.summary(numbers, schedule)]
        if self._rates:
            parts.append(f"{self._rates['images_per_second']:.0f} images/s")
            parts.append(f"MFU {self._rates['mfu']:.0%}")
            parts.append(f"data wait {self._rates['data_wait']:.0%}")
        self.console.step(done, epoch, "  ".join(parts))
