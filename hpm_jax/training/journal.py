"""Reads the metrics of each step one step late, so that the host never holds up the devices."""

import math
import time

import jax

from hpm_jax.models.flops import StepFlops
from hpm_jax.training.console import Console
from hpm_jax.training.metrics import MetricsWriter, read_lines
from hpm_jax.training.schedules import Schedule, Timetable
from hpm_jax.training.step import Metrics
from hpm_jax.training.throughput import Meter, peak_flops


class TrainingDiverged(ArithmeticError):
    """A loss that is not a number."""


class Journal:
    """Takes the metrics of every step, writes some, shows them all, and stops at a NaN."""

    def __init__(
        self,
        timetable: Timetable,
        flops: StepFlops,
        writer: MetricsWriter,
        console: Console,
        every: int,
    ):
        """`every` is the steps between lines in `metrics.jsonl`."""
        self.timetable, self.flops, self.every = timetable, flops, every
        self.writer, self.console = writer, console
        self.peak, self.peak_source = peak_flops()
        self.meter = Meter()
        self._pending: tuple[int, Schedule, Metrics] | None = None
        self._rates: dict[str, float] = {}
        before = [line["seconds"] for line in read_lines(writer.path) if "seconds" in line]
        self._began = time.time() - (before[-1] if before else 0.0)

    @property
    def seconds(self) -> float:
        """Since the run began, stops left out."""
        return time.time() - self._began

    def step(self, done: int, schedule: Schedule, metrics: Metrics) -> None:
        """The step that makes `done` has been started; the one before is read now."""
        self.read()
        flops = self.flops.student + (self.flops.teacher if schedule.n_hard else 0)
        self.meter.step(self.timetable.batch_size, flops * self.timetable.batch_size)
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
            state = {
                "learning_rate": float(schedule.learning_rate),
                "teacher_decay": 1.0 - float(schedule.teacher_rate),
                "n_hard": int(schedule.n_hard),
                "seconds": round(self.seconds, 2),
            }
            self.writer.write(done, {"epoch": epoch} | numbers | state | self._rates)
        self.console.step(done, epoch, self._summary(numbers, schedule))

    def _summary(self, numbers: dict[str, float], schedule: Schedule) -> str:
        parts = [f"loss {numbers['loss']:.3f}"]
        if "ranked_correctly" in numbers:
            parts.append(f"ranked {numbers['ranked_correctly']:.0%}")
        parts.append(f"hard {schedule.n_hard}/{self.timetable.hidden}")
        if self._rates:
            parts.append(f"{self._rates['images_per_second']:.0f} images/s")
            parts.append(f"MFU {self._rates['mfu']:.0%}")
            parts.append(f"data wait {self._rates['data_wait']:.0%}")
        return "  ".join(parts)
