"""The options of pre-training."""

import dataclasses

from hpm_jax.config.model import Model
from hpm_jax.config.shared import Data, Guard, OnGrid, Optimizer, Run, TaskOptions
from hpm_jax.fields import option, positive
from hpm_jax.losses.ranking import Relative
from hpm_jax.losses.reconstruction import Objective, Reconstruction, SquaredError
from hpm_jax.losses.term import Term
from hpm_jax.masking.hard import Hard
from hpm_jax.masking.strategy import Strategy
from hpm_jax.masking.units import UNITS, Unit
from hpm_jax.models.decoders import Decoder, SelfAttention
from hpm_jax.plugs import Setting
from hpm_jax.targets.pixels import RawPixels
from hpm_jax.targets.target import Target
from hpm_jax.teachers.teacher import MovingAverage, Teacher
from hpm_jax.tokens import Tokenizer


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which patches are hidden, how many, and how many of them enter the loss."""

    strategy: Strategy = option(
        Hard(), "mask strategy: which patches are hidden first; see docs/masks.md"
    )
    unit: str = option(
        "patch", "unit of masking: a patch, or a tube (one place in every frame)", choices=UNITS
    )
    ratio: float = option(0.75, "fraction of the patches that is hidden", above=0, below=1)
    ratio_end: float = option(
        0.0, "mask ratio at the end of the run, reached linearly; 0 keeps `ratio`", low=0, below=1
    )
    counted: float = option(
        1.0, "fraction of the hidden patches that enters the loss", above=0, high=1
    )
    counted_end: float = option(
        0.0, "`counted` at the end of the run, reached linearly; 0 keeps `counted`", low=0, high=1
    )
    replaced: float = option(
        0.0,
        "fraction of the visible patches that a learned token replaces in the student's input "
        "(vis_mask_ratio)",
        low=0,
        below=1,
    )
    views: int = option(
        1, "number of masks per image or clip, from one pass of the teacher", low=1, high=64
    )

    @property
    def ratio_moves(self) -> bool:
        """Whether the ratio changes during the run."""
        return self.ratio_end not in (0.0, self.ratio)

    @property
    def ratios(self) -> tuple[float, float]:
        """The lowest and the highest ratio of the run."""
        end = self.ratio_end or self.ratio
        return min(self.ratio, end), max(self.ratio, end)

    def ratio_at(self, done: float) -> float:
        """The ratio after a fraction `done` of the run."""
        return self.ratio + done * ((self.ratio_end or self.ratio) - self.ratio)

    @property
    def some_count(self) -> bool:
        """Whether some hidden patches do not enter the loss in some step."""
        return min(self.counted, self.counted_end or self.counted) < 1

    def counted_at(self, done: float) -> float:
        """The fraction of the hidden patches in the loss after a fraction `done` of the run."""
        return self.counted + done * ((self.counted_end or self.counted) - self.counted)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluations and pictures during training."""

    every_epochs: float = option(
        5.0, "number of epochs between evaluations; 0 for none", low=0, high=10**6
    )
    bank_images: int = positive(
        5000, "number of labelled training images for logistic regression and kNN"
    )
    test_images: int = positive(1000, "number of test images per evaluation")
    neighbors: int = positive(20, "number of neighbours of kNN", high=10**6)
    temperature: float = option(0.07, "temperature of kNN's votes", low=1e-3, high=1e3)
    penalty: float = option(1e-2, "L2 penalty of the logistic regression", low=1e-9, high=1e3)
    pool: str = option(
        "both", "feature of an image: its cls token, the mean of its patches, or both",
        choices=("cls", "mean", "both"),
    )  # fmt: skip
    batch_size: int = positive(256, "number of images per evaluation batch", high=10**7)
    pictures: int = option(
        6, "number of fixed images that are drawn; 0 draws none", low=0, high=100
    )


@dataclasses.dataclass(frozen=True)
class Config(TaskOptions, OnGrid):
    """A pre-training run."""

    task: str = option("pretrain", "name of the task")
    automatic: tuple[str, ...] = option(
        (),
        "options that the run chooses at its start from data and machine, unless they are given",
        changes_result=False,
    )
    seed: int = option(0, "random seed", low=0, high=2**32 - 1)
    init_from: str = option("", "workdir or weights file to start from; '' for random weights")
    weights: str = option(
        "student", "which weights of init_from to use", choices=("student", "teacher")
    )
    target: Target = option(RawPixels(), "what the decoder predicts for a hidden patch")
    objective: Objective = option(SquaredError(), "distance between a prediction and its target")
    decoder: Decoder = option(
        SelfAttention(), "how hidden patches and their losses are predicted; see docs/decoders.md"
    )
    losses: tuple[Term, ...] = option(
        (Relative(),), "terms of the loss; reconstruction is added unless it is named"
    )
    teacher: Teacher = option(
        MovingAverage(),
        "network whose outputs for the whole image mask strategies and targets read",
    )
    data: Data = Data()
    model: Model = Model()
    mask: MaskOptions = MaskOptions()
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = option(
        Evaluation(), "evaluations during training", changes_result=False
    )
    guard: Guard = option(Guard(), "what to do about divergence", changes_result=False)
    run: Run = option(Run(), "how the run is executed", changes_result=False)

    @property
    def unit(self) -> Unit:
        """The unit of masking: patches or tubes."""
        return Unit(self.grid, self.mask.unit == "tube")

    @property
    def hidden_units(self) -> int:
        """Number of hidden units of one image; the largest, if the ratio changes."""
        return self.unit.hidden(self.mask.ratios[1])

    @property
    def hidden(self) -> int:
        """Number of hidden patches of one image, M."""
        return self.hidden_units * self.unit.size

    @property
    def queried_units(self) -> int:
        """Number of hidden units of one image that the decoder predicts in a step."""
        return max(1, round(self.decoder.share * self.hidden_units))

    @property
    def queried(self) -> int:
        """Number of hidden patches of one image that the decoder predicts in a step, Q."""
        return self.queried_units * self.unit.size

    @property
    def setting(self) -> Setting:
        """What plugs may know of the run before it starts."""
        tokenizer = Tokenizer(self.patch_size, self.data.mean, self.data.std)
        setting = Setting(tokenizer, self.grid, self.hidden, self.model.width)
        return setting._replace(features_width=self.teacher.features_width(setting))

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms of the loss: `losses`, and reconstruction unless they name it.

        Without it where nothing of hidden patches is predicted.
        """
        named = any(isinstance(term, Reconstruction) for term in self.losses)
        added = self.decoder.predicts and not named
        return (Reconstruction(), *self.losses) if added else self.losses

    @property
    def clips(self) -> int:
        """Number of images or clips in a batch, before `mask.views` multiplies them."""
        return self.optimizer.batch_size * self.data.clips

    @property
    def stored_scores(self) -> tuple[int, int] | None:
        """Shape of the cached teacher predictions, (clips, units), or None without a cache."""
        stored = self.teacher.every_steps > 1 and self.mask.strategy.reads
        return (self.clips, self.unit.count) if stored else None
