"""What changes from step to step: computed on the host in float64, handed over as scalars."""

import abc
import math
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.config import Config, Detect, Finetune, Optimizer, ProbeOptimizer, Segment


class Schedule(NamedTuple):
    """The scalars of one step; the compiled step takes them as arguments and never recompiles."""

    learning_rate: np.float32
    teacher_rate: np.float32  # 1 - decay of the teacher
    n_hard: np.int32  # units that are hidden because they are hard
    hidden: np.int32 | None = None  # units that are hidden; None where the mask ratio stays
    counted: np.float32 | None = None  # the share of them in the loss; None where all are


# of a step that hides at random and learns nothing
AT_RANDOM = Schedule(np.float32(0), np.float32(0), np.int32(0))


class FinetuneSchedule(NamedTuple):
    """The scalars of one fine-tuning step."""

    learning_rate: np.float32
    max_sup: np.float32  # the weight of MaxSup
    teacher_rate: np.float32 = np.float32(0)  # 1 - decay of the moving average, where it is kept


class SegmentSchedule(NamedTuple):
    """The scalars of one step of segmentation."""

    learning_rate: np.float32


class DetectSchedule(NamedTuple):
    """The scalars of one step of detection."""

    learning_rate: np.float32


class ProbeSchedule(NamedTuple):
    """The scalars of one step of a probe."""

    learning_rate: np.float32  # the factor of all learning rates of the sweep, from 0 to 1


def warmup_cosine(epoch: float, peak: float, floor: float, warmup: float, epochs: float) -> float:
    """Linear from 0 at epoch 0, then half a cosine from `peak` to `floor` (MAE, lr_sched.py)."""
    if epoch < warmup:
        return peak * epoch / warmup
    progress = (epoch - warmup) / (epochs - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_linear(epoch: float, peak: float, floor: float, warmup: float, epochs: float) -> float:
    """Linear from 0 at epoch 0 to `peak`, then from there to `floor` (polynomial of power 1).

    As in MMSegmentation's recipes the decay counts from epoch 0, and the warm-up multiplies it.
    """
    decayed = floor + (peak - floor) * (1 - epoch / epochs)
    return decayed * min(1.0, epoch / warmup) if warmup else decayed


class Timetable(abc.ABC):
    """Epochs and steps of a run over `images` training images, and its learning rate.

    Batches run on across the ends of epochs, so that every image is seen once in each; an epoch
    is `images / batch_size` steps, not always a whole number.
    """

    def __init__(self, optimizer: Optimizer | ProbeOptimizer, images: int):
        self.optimizer, self.images = optimizer, images
        self.batch_size = optimizer.batch_size
        self.steps = optimizer.epochs * images // self.batch_size
        self.stages: dict[int, int] = {}  # by step before which it begins, the number of a stage

    def epoch(self, step: int) -> float:
        """How many epochs have been seen before `step`."""
        return step * self.batch_size / self.images

    def step_of(self, epoch: float) -> int:
        """The first step at which `epoch` epochs have been seen."""
        return min(math.ceil(epoch * self.images / self.batch_size), self.steps)

    def learning_rate(self, step: int) -> np.float32:
        """Warm-up and cosine at `step`."""
        o = self.optimizer
        rate = warmup_cosine(
            self.epoch(step), o.learning_rate, o.floor, o.warmup_epochs, float(o.epochs)
        )
        return np.float32(rate)

    def milestones(self, every: float) -> set[int]:
        """The steps that end a multiple of `every` epochs, and the last; none where it is 0."""
        if not every:
            return set()
        count = math.floor(self.epoch(self.steps) / every)
        return {self.step_of(every * index) for index in range(1, count + 1)} | {self.steps}

    @abc.abstractmethod
    def at(self, step: int) -> Any:
        """The scalars of `step`, which the compiled step takes."""

    def numbers(self, schedule: Any) -> dict[str, float]:
        """The scalars of a step as they are written down."""
        return {name: value.item() for name, value in schedule._asdict().items()}


class PretrainTimetable(Timetable):
    """Adds the teacher's decay, and what moves in the mask."""

    def __init__(self, config: Config, images: int, hidden: int):
        """`hidden` is the number of units hidden in each image, at most."""
        super().__init__(config.optimizer, images)
        self.config, self.hidden = config, hidden
        self.stages = {
            self.step_of(epoch): number for number, epoch in enumerate(config.teacher.stages, 1)
        }

    def at(self, step: int) -> Schedule:
        """The scalars of `step`."""
        mask, epoch, epochs = self.config.mask, self.epoch(step), self.optimizer.epochs
        done = step / max(self.steps - 1, 1)
        hidden = counted = None
        if mask.ratio_moves:
            hidden = np.int32(self.config.unit.hidden(mask.ratio_at(done)))
        if mask.some_count:
            counted = np.float32(mask.counted_at(done))
        return Schedule(
            learning_rate=self.learning_rate(step),
            teacher_rate=np.float32(1 - self.config.teacher.decay(int(epoch))),
            n_hard=np.int32(mask.strategy.n_hard(epoch, epochs, self.hidden)),
            hidden=hidden,
            counted=counted,
        )

    def numbers(self, schedule: Schedule) -> dict[str, float]:
        """The scalars of a step as they are written down."""
        numbers = {
            "learning_rate": float(schedule.learning_rate),
            "teacher_decay": 1.0 - float(schedule.teacher_rate),
            "n_hard": int(schedule.n_hard),
        }
        moving = {"hidden": schedule.hidden, "counted_share": schedule.counted}
        return numbers | {name: float(x) for name, x in moving.items() if x is not None}


class FinetuneTimetable(Timetable):
    """Adds the weight of MaxSup, which moves from epoch to epoch."""

    def __init__(self, config: Finetune, images: int):
        super().__init__(config.optimizer, images)
        self.regularize, self.average = config.regularize, config.optimizer.average

    def at(self, step: int) -> FinetuneSchedule:
        """The scalars of `step`."""
        start, end = self.regularize.max_sup_start, self.regularize.max_sup_end
        share = int(self.epoch(step)) / max(self.optimizer.epochs - 1, 1)
        return FinetuneSchedule(
            self.learning_rate(step),
            np.float32(start + min(share, 1) * (end - start)),
            np.float32(1 - self.average),
        )

    def numbers(self, schedule: FinetuneSchedule) -> dict[str, float]:
        """The scalars of a step as they are written down."""
        return {
            "learning_rate": float(schedule.learning_rate),
            "max_sup": float(schedule.max_sup),
        }


class ProbeTimetable(Timetable):
    """The learning rate alone, as a factor."""

    def at(self, step: int) -> ProbeSchedule:
        """The scalars of `step`."""
        return ProbeSchedule(self.learning_rate(step))


class SegmentTimetable(Timetable):
    """The learning rate alone, which falls by half a cosine or linearly."""

    def __init__(self, config: Segment, images: int):
        super().__init__(config.optimizer, images)
        self.decay = config.optimizer.decay

    def learning_rate(self, step: int) -> np.float32:
        """Warm-up and decay at `step`."""
        if self.decay == "cosine":
            return super().learning_rate(step)
        o = self.optimizer
        rate = warmup_linear(
            self.epoch(step), o.learning_rate, o.floor, o.warmup_epochs, float(o.epochs)
        )
        return np.float32(rate)

    def at(self, step: int) -> SegmentSchedule:
        """The scalars of `step`."""
        return SegmentSchedule(self.learning_rate(step))


class DetectTimetable(Timetable):
    """The learning rate alone, which falls to a tenth at milestones, or by half a cosine."""

    def __init__(self, config: Detect, images: int):
        super().__init__(config.optimizer, images)
        self.decay, self.milestone_shares = config.optimizer.decay, config.optimizer.milestones

    def learning_rate(self, step: int) -> np.float32:
        """Warm-up and decay at `step`."""
        if self.decay == "cosine":
            return super().learning_rate(step)
        o = self.optimizer
        passed = sum(step >= share * self.steps for share in self.milestone_shares)
        rising = min(1.0, self.epoch(step) / o.warmup_epochs) if o.warmup_epochs else 1.0
        return np.float32(max(o.floor, o.learning_rate * 0.1**passed) * rising)

    def at(self, step: int) -> DetectSchedule:
        """The scalars of `step`."""
        return DetectSchedule(self.learning_rate(step))
