"""The teacher of a run: a moving average of the student, or none."""

from typing import ClassVar

from hpm_jax.fields import option, positive, share
from hpm_jax.plugs import Plug, register

VIEWS = ("whole", "parts")


class Teacher(Plug, kind="teacher"):
    """Parameters that are asked what they see of the whole image, before anything is hidden."""

    kept: ClassVar[bool] = True  # whether there are such parameters in the state
    frame_stride: int = 1
    every_steps: int = 1
    view: str = "whole"

    def decay(self, epoch: int) -> float:
        """Of the moving average, in `epoch`."""
        return 1.0


@register("none")
class NoTeacher(Teacher):
    """Nothing is kept: MAE's."""

    kept: ClassVar[bool] = False


@register("moving_average")
class MovingAverage(Teacher):
    """A moving average of the student (HPM, section 3.3): the decay grows linearly, then stays."""

    start: float = share(0.999, "the decay in the first epoch")
    end: float = share(0.9999, "and after ramp_epochs")
    ramp_epochs: int = option(100, "epochs over which the decay grows", low=0)
    frame_stride: int = positive(1, "it sees one in so many frames of the grid")
    every_steps: int = positive(1, "it looks once in so many steps, over which the batch stays")
    view: str = option(
        "whole",
        "what it sees: the whole image, or parts of it, each patch predicted while it is hidden",
        choices=VIEWS,
    )

    def decay(self, epoch: int) -> float:
        """Linear from `start` to `end` over the first `ramp_epochs`, then `end`."""
        if not self.ramp_epochs:
            return self.end
        return self.start + min(epoch, self.ramp_epochs) / self.ramp_epochs * (
            self.end - self.start
        )
