"""What a teacher is; an exponential moving average of the student, and none."""

from typing import Any, ClassVar

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive, share
from hpm_jax.models.quantization import QUANTIZATIONS
from hpm_jax.plugs import Plug, Setting, register

RANDOM_VIEWS = ("half", "visible")
VIEWS = ("whole", "parts", *RANDOM_VIEWS)
DTYPES = ("", "float32", "bfloat16", "int8", "float8")


class Teacher(Plug, kind="teacher"):
    """A network that sees the whole image and computes what mask strategies and targets read."""

    kept: ClassVar[bool] = True  # whether there is one
    in_state: ClassVar[bool] = True  # whether it is a model as the student is, in the state
    averages: ClassVar[bool] = True  # whether they follow the student in every step
    stages: ClassVar[tuple[int, ...]] = ()  # epochs at which the student replaces them
    frame_stride: int = 1
    every_steps: int = 1
    view: str = "whole"

    def decay(self, epoch: int) -> float:
        """Of the moving average, in `epoch`."""
        return 1.0

    def gives(self, output: str) -> bool:
        """Whether an output can be read of it; see `MaskedAutoencoder.read`."""
        return True

    def features_width(self, setting: Setting) -> int:
        """Number of values of its features; by default those of the student's encoder."""
        return setting.width

    def computed(self, model: Any) -> Any:
        """Returns a model with the same parameters, with the arithmetic of the teacher's pass."""
        return model

    def pass_flops(self, setting: Setting, reads: tuple[str, ...]) -> float:
        """FLOPs of its pass over an image for `reads`, where it is no model as the student is."""
        return 0.0

    def depth(self, config: Any) -> int:
        """Number of blocks of its encoder."""
        return config.model.depth


@register("none")
class NoTeacher(Teacher):
    """No teacher, as in MAE."""

    kept: ClassVar[bool] = False
    in_state: ClassVar[bool] = False


@register("moving_average")
class MovingAverage(Teacher):
    """An exponential moving average of the student, whose decay grows (HPM, section 3.3)."""

    start: float = share(0.999, "the decay in the first epoch")
    end: float = share(0.9999, "and after ramp_epochs")
    ramp_epochs: int = option(100, "epochs over which the decay grows", low=0, high=10**6)
    frame_stride: int = positive(1, "the teacher sees every n-th frame of the grid", high=2**15)
    every_steps: int = positive(
        1, "run the teacher every n steps; each batch is used n times with new masks", high=10**6
    )
    view: str = option(
        "whole",
        "its input: the whole image; parts of it, so that each patch is predicted while hidden; a "
        "random half, or as many random patches as the student sees, drawn in every pass",
        choices=VIEWS,
    )
    dtype: str = option(
        "",
        "dtype of its pass, '' for that of the model; an 8-bit one is that of the products with "
        "the kernels of the blocks, quantised on the fly",
        choices=DTYPES,
    )

    def check(self, config: Any) -> None:
        """Targets and terms read exact features, and cuDNN's attention half precision."""
        name, dtype = f"config.teacher = {str(self)!r}", self.dtype
        plugs: list[Any] = [config.target, *config.terms]
        reader = next((plug for plug in plugs if plug.reads), None)
        if dtype in QUANTIZATIONS[1:] and reader is not None:
            raise ConfigError(
                f"{name}: {reader.name!r} reads {' and '.join(reader.reads)} of the teacher as "
                f"targets, and {dtype} adds noise to them: dtype = '' or 'bfloat16'"
            )
        if dtype == "float32" and config.model.attention == "cudnn":
            raise ConfigError(
                f"{name}: config.model.attention = 'cudnn' computes in half precision alone: "
                "dtype = '' or 'bfloat16', or --config.model.attention=auto"
            )

    def computed(self, model: Any) -> Any:
        """Returns the model in `dtype`; see `MaskedAutoencoder.computed_in`."""
        return model.computed_in(self.dtype) if self.dtype else model

    def decay(self, epoch: int) -> float:
        """Linear from `start` to `end` over the first `ramp_epochs`, then `end`."""
        if not self.ramp_epochs:
            return self.end
        return self.start + min(epoch, self.ramp_epochs) / self.ramp_epochs * (
            self.end - self.start
        )
