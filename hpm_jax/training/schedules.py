"""What changes from step to step: computed on the host in float64, handed over as scalars."""

import math
from typing import NamedTuple

import numpy as np

from hpm_jax.masking.schedule import hard_count
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.options import Config


class Schedule(NamedTuple):
    """The scalars of one step; the compiled step takes them as arguments and never recompiles."""

    learning_rate: np.float32
    teacher_rate: np.float32  # 1 - decay of the teacher
    n_hard: np.int32  # patches that the teacher chooses


def warmup_cosine(epoch: float, peak: float, floor: float, warmup: float, epochs: float) -> float:
    """Linear from 0 at epoch 0, then half a cosine from `peak` to `floor` (MAE, lr_sched.py)."""
    if epoch < warmup:
        return peak * epoch / warmup
    progress = (epoch - warmup) / (epochs - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def teacher_decay(epoch: int, start: float, end: float, ramp_epochs: int) -> float:
    """Linear from `start` to `end` over the first `ramp_epochs`, then `end`."""
    return start + min(epoch, ramp_epochs) / ramp_epochs * (end - start) if ramp_epochs else end


class Timetable:
    """Epochs, steps and schedules of a run over `images` training images.

    Batches run on across the ends of epochs, so that every image is seen once in each; an epoch
    is `images / batch_size` steps, not always a whole number.
    """

    def __init__(self, config: Config, images: int, hidden: int):
        """`hidden` is the number of patches hidden in each image."""
        self.config, self.images, self.hidden = config, images, hidden
        self.batch_size = config.optimizer.batch_size
        self.steps = config.optimizer.epochs * images // self.batch_size

    def epoch(self, step: int) -> float:
        """How many epochs have been seen before `step`."""
        return step * self.batch_size / self.images

    def step_of(self, epoch: float) -> int:
        """The first step at which `epoch` epochs have been seen."""
        return min(math.ceil(epoch * self.images / self.batch_size), self.steps)

    def at(self, step: int) -> Schedule:
        """The scalars of `step`."""
        mask, teacher, optimizer = self.config.mask, self.config.teacher, self.config.optimizer
        epoch = self.epoch(step)
        n_hard = 0
        if STRATEGIES[mask.strategy].asks_teacher:
            mask_epoch = int(epoch) if mask.schedule == "epoch" else epoch
            n_hard = hard_count(
                mask_epoch, optimizer.epochs, self.hidden, mask.hard_start, mask.hard_end
            )
        decay = teacher_decay(
            int(epoch), teacher.decay_start, teacher.decay_end, teacher.ramp_epochs
        )
        return Schedule(
            learning_rate=np.float32(
                warmup_cosine(
                    epoch,
                    optimizer.learning_rate,
                    optimizer.floor,
                    optimizer.warmup_epochs,
                    optimizer.epochs,
                )
            ),
            teacher_rate=np.float32(1 - decay),
            n_hard=np.int32(n_hard),
        )
