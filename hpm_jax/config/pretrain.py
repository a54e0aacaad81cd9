"""The options of pre-training."""

import dataclasses

from hpm_jax.config.model import Model
from hpm_jax.config.shared import Data, OnGrid, Optimizer, Run, TaskOptions
from hpm_jax.fields import option, positive
from hpm_jax.losses.ranking import Relative
from hpm_jax.losses.reconstruction import Objective, Reconstruction, SquaredError
from hpm_jax.losses.term import Term
from hpm_jax.masking.hard import Hard
from hpm_jax.masking.strategy import Strategy
from hpm_jax.masking.units import UNITS, Unit
from hpm_jax.targets.pixels import RawPixels
from hpm_jax.targets.target import Target
from hpm_jax.teachers.teacher import MovingAverage, Teacher


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which patches are hidden, how many, and how many of them count."""

    strategy: Strategy = option(Hard(), "which patches are hidden first; see docs/masks.md")
    unit: str = option(
        "patch", "what is hidden as one: a patch, or a tube, the same in every frame", choices=UNITS
    )
    ratio: float = option(0.75, "the share of the patches that is hidden", above=0, below=1)
    ratio_end: float = option(
        0.0, "the share at the end of the run, reached linearly; 0 for the same", low=0, below=1
    )
    counted: float = option(1.0, "the share of the hidden that enters the loss", above=0, high=1)
    counted_end: float = option(
        0.0, "the share at the end of the run, reached linearly; 0 for the same", low=0, high=1
    )
    replaced: float = option(
        0.0,
        "the share of the visible that the student sees a learned token for (vis_mask_ratio)",
        low=0,
        below=1,
    )
    views: int = option(1, "masks of each image or clip, by one look", low=1, high=64)

    @property
    def ratio_moves(self) -> bool:
        """Whether the ratio is another at the end."""
        return self.ratio_end not in (0.0, self.ratio)

    @property
    def ratios(self) -> tuple[float, float]:
        """The lowest and the highest ratio of the run."""
        end = self.ratio_end or self.ratio
        return min(self.ratio, end), max(self.ratio, end)

    def ratio_at(self, done: float) -> float:
        """The ratio when a share `done` of the run is over."""
        return self.ratio + done * ((self.ratio_end or self.ratio) - self.ratio)

    @property
    def some_count(self) -> bool:
        """Whether there is a step in which some hidden patches do not enter the loss."""
        return min(self.counted, self.counted_end or self.counted) < 1

    def counted_at(self, done: float) -> float:
        """The share of the hidden in the loss when a share `done` of the run is over."""
        return self.counted + done * ((self.counted_end or self.counted) - self.counted)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured and drawn on the way."""

    every_epochs: float = option(5.0, "between evaluations; 0 for none", low=0)
    bank_images: int = positive(5000, "labelled training images that logistic and kNN learn from")
    test_images: int = positive(1000, "images that are measured")
    neighbors: int = positive(20, "of kNN")
    temperature: float = option(0.07, "of kNN's votes", low=1e-3, high=1e3)
    penalty: float = option(1e-2, "of the logistic regression", low=1e-9, high=1e3)
    pool: str = option(
        "both", "the feature of an image: its cls token, the mean of its patches, or both",
        choices=("cls", "mean", "both"),
    )  # fmt: skip
    batch_size: int = positive(256, "of evaluations")
    pictures: int = option(6, "fixed images that are drawn; 0 draws none", low=0, high=100)


@dataclasses.dataclass(frozen=True)
class Config(TaskOptions, OnGrid):
    """A pre-training run."""

    task: str = option("pretrain", "what the run does")
    seed: int = option(0, "of all random numbers", low=0, high=2**32 - 1)
    init_from: str = option("", "a workdir or a file of weights to start from; '' starts afresh")
    weights: str = option("student", "which weights of init_from", choices=("student", "teacher"))
    target: Target = option(RawPixels(), "what a hidden patch should become")
    objective: Objective = option(SquaredError(), "how far a prediction is from its target")
    losses: tuple[Term, ...] = option(
        (Relative(),), "the terms beside reconstruction, which is there unless it is named"
    )
    teacher: Teacher = option(MovingAverage(), "who is asked what it sees of the whole image")
    data: Data = Data()
    model: Model = Model()
    mask: MaskOptions = MaskOptions()
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = option(
        Evaluation(), "what is measured on the way", changes_result=False
    )
    run: Run = option(Run(), "how the run is run", changes_result=False)

    @property
    def unit(self) -> Unit:
        """What masks are made of."""
        return Unit(self.grid, self.mask.unit == "tube")

    @property
    def hidden_units(self) -> int:
        """Hidden units of one image, patches or tubes; the most, where the ratio moves."""
        return self.unit.hidden(self.mask.ratios[1])

    @property
    def hidden(self) -> int:
        """Hidden patches of one image, M."""
        return self.hidden_units * self.unit.size

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms of the loss: `losses`, and reconstruction where they do not name it."""
        named = any(isinstance(term, Reconstruction) for term in self.losses)
        return self.losses if named else (Reconstruction(), *self.losses)

    @property
    def clips(self) -> int:
        """Images or clips in a batch, without what `mask.views` multiplies."""
        return self.optimizer.batch_size * self.data.clips

    @property
    def stored_scores(self) -> tuple[int, int] | None:
        """Clips and units of a batch, where what the teacher says is kept from step to step."""
        stored = self.teacher.every_steps > 1 and self.mask.strategy.reads
        return (self.clips, self.unit.count) if stored else None
