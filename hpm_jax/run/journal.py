"""Reads the metrics of each step one step late, so that the host never holds up the devices."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

from hpm_jax.errors import UserError
from hpm_jax.run.console import Console
from hpm_jax.run.metrics import MetricsWriter, read_lines
from hpm_jax.run.throughput import Meter, peak_flops
from hpm_jax.step.schedules import Timetable
from hpm_jax.step.update import Metrics

Numbers = dict[str, float]


class TrainingDiverged(UserError, ArithmeticError):
    """A loss that is not a number."""


class Journal:
    """Takes the metrics of every step, writes some, shows them all, and stops at a NaN."""

    def __init__(
        self,
        timetable: Timetable,
        flops: Callable[[Any], float],
        summary: Callable[[Numbers, Any], str],
        writer: MetricsWriter,
        console: Console,
        every: int,
    ):
        """What differs from task to task comes as functions of a step's schedule.

        Args:
            flops: operations for one image.
            summary: the numbers of a step, as the console shows them.
            every: the steps between lines in `metrics.jsonl`.
        """
        self.timetable, self.flops, self.every = timetable, flops, every
        self.summary = summary
        self.writer, self.console = writer, console
        self.peak, self.peak_source = peak_flops()
        self.meter = Meter()
        self._pending: tuple[int, Any, Metrics] | None = None
        self._rates: dict[str, float] = {}
        before = [line["seconds"] for line in read_lines(writer.path) if "seconds" in line]
        self._began = time.time() - (before[-1] if before else 0.0)

    @property
    def seconds(self) -> float:
        """Since the run began, stops left out."""
        return time.time() - self._began

    def step(self, done: int, schedule: Any, metrics: Metrics) -> None:
        """The step that makes `done` has been started; the one before is read now."""
        self.read()
        images = self.timetable.batch_size
        self.meter.step(images, self.flops(schedule) * images)
        self._pending = (done, schedule, metrics)

    def read(self) -> None:
        """Waits for the last step, and writes what it says.

        Raises:
            TrainingDiverged: where its loss is not finite.
        """
        if self._pending is None:
            return
        (done, schedule, metrics), self._pending = self._pending, None
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        epoch = self.timetable.epoch(done)
        if not math.isfinite(numbers["loss"]):
            raise TrainingDiverged(
                f"the loss is {numbers['loss']} at step {done} (epoch {epoch:.1f}); checkpoints "
                "from before are whole. Lower config.optimizer.base_learning_rate, clip harder "
                "with config.optimizer.clip_norm, or compute with config.model.dtype=float32."
            )
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
