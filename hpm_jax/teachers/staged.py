"""A teacher that is replaced by the student a few times in a run, and stands still in between."""

from typing import Any, ClassVar

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.plugs import register
from hpm_jax.teachers.teacher import Teacher


@register("staged")
class Staged(Teacher):
    """At given epochs the student becomes the teacher, and a new student starts (dBOT, Liu 2022).

    The new student, its heads included, is drawn from the run's initial distribution; moments of
    the optimizer and all schedules go on. A stage at epoch 0 replaces the copy of the student, from
    which every teacher starts, by independent random weights, as in dBOT.
    """

    epochs: tuple[int, ...] = option(
        (0, 800, 1600), "epochs at which a stage begins, in rising order", low=0, high=10**6
    )

    averages: ClassVar[bool] = False

    @property
    def stages(self) -> tuple[int, ...]:  # type: ignore[override]
        """The epochs at which a stage begins."""
        return self.epochs

    def check(self, config: Any) -> None:
        """Every stage has to begin before the end of the run, and at random."""
        name, last = f"config.teacher = {self.call!r}", config.optimizer.epochs
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)):
            raise ConfigError(f"{name}: expected epochs in rising order, as in epochs=(0, 800)")
        if self.epochs[-1] >= last:
            raise ConfigError(
                f"{name}: the stage at epoch {self.epochs[-1]} is beyond the run, which ends at "
                f"epoch {last} (config.optimizer.epochs): leave it out, or train longer"
            )
        if config.init_from:
            raise ConfigError(
                f"{name} starts each student at random, and config.init_from = "
                f"{config.init_from!r} names weights to start from: leave one of them out; "
                "weights that teach belong into target=\"frozen_features(path='...')\""
            )
