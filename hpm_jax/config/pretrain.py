"""The options of pre-training."""

import dataclasses

from hpm_jax.config.shared import Data, OnGrid, Optimizer, Run
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.masking.units import Unit


@dataclasses.dataclass(frozen=True)
class Model:
    """The masked autoencoder; `hpm_jax/models/sizes.py` has the usual sizes."""

    patch_size: int = 16
    tubelet: int = 1  # frames of a patch
    width: int = 768
    depth: int = 12
    heads: int = 12
    layout: str = "mae"  # mae, videomae or mae_st; see hpm_jax/models/layouts.py
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    dtype: str = "float32"  # of matrix products: float32 or bfloat16
    remat: str = "none"  # which products the backward pass computes again: none, mlp, full
    unroll: int = 1  # blocks unrolled in each scan; 0 unrolls all
    attention: str = "xla"  # or cudnn: its fused kernel, on NVIDIA GPUs in bfloat16


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which patches are hidden."""

    strategy: str = "hard"
    unit: str = "patch"  # what is hidden as one: a patch, or a "tube", the same in every frame
    ratio: float = 0.75
    views: int = 1  # masks of each image or clip, by one look of the teacher
    hard_start: float = 0.0  # the share of hidden patches that are hard: alpha_0
    hard_end: float = 0.5  # and alpha_T
    schedule: str = "epoch"  # the share moves once an epoch, or with every "step"


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The loss predictor's loss."""

    loss: str = "relative"  # relative, absolute, or none: then there is no loss predictor
    weight: float = 1.0
    pairs: str = "all"  # relative: all, of "tubes" for patches, or some "sampled"
    distances: int = 8  # sampled: so many pairs for each hidden patch


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The moving average of the student."""

    keep: bool = True
    decay_start: float = 0.999
    decay_end: float = 0.9999
    ramp_epochs: int = 100
    frame_stride: int = 1  # it sees every so manieth frame of the grid
    every_steps: int = 1  # it looks so seldom, and each batch comes that often, masked anew


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured and drawn on the way."""

    every_epochs: float = 5.0
    bank_images: int = 5000  # labelled training images that kNN looks among
    test_images: int = 1000
    neighbors: int = 20
    temperature: float = 0.07
    pool: str = "cls"  # the feature of an image: its cls token, or the "mean" of its patches
    batch_size: int = 256
    pictures: int = 6  # fixed images that are drawn; 0 draws none


@dataclasses.dataclass(frozen=True)
class Config(OnGrid):
    """A pre-training run."""

    task: str = "pretrain"
    seed: int = 0
    init_from: str = ""  # a workdir or a file of weights to start from; "" starts afresh
    weights: str = "student"  # which weights of init_from: student or teacher
    target: str = "pixels"
    target_frames: str = "all"  # of each patch that are rebuilt: all, or one (mae_st)
    data: Data = Data()
    model: Model = Model()
    mask: MaskOptions = MaskOptions()
    ranking: Ranking = Ranking()
    teacher: Teacher = Teacher()
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    run: Run = Run()

    @property
    def unit(self) -> Unit:
        """What masks are made of."""
        return Unit(self.grid, self.mask.unit == "tube")

    @property
    def hidden_units(self) -> int:
        """Hidden units of one image: patches, or tubes."""
        return self.unit.hidden(self.mask.ratio)

    @property
    def hidden(self) -> int:
        """Hidden patches of one image, M."""
        return self.hidden_units * self.unit.size

    @property
    def target_values(self) -> int:
        """Values that a hidden patch becomes, D; 0 where they are those of the whole patch."""
        return self.values // self.model.tubelet if self.target_frames == "one" else 0

    @property
    def clips(self) -> int:
        """Images or clips in a batch, without what `mask.views` multiplies."""
        return self.optimizer.batch_size * self.data.clips

    @property
    def stored_scores(self) -> tuple[int, int] | None:
        """Clips and units of a batch, where the teacher's word is kept from step to step."""
        stored = self.teacher.every_steps > 1 and STRATEGIES[self.mask.strategy].asks_teacher
        return (self.clips, self.unit.count) if stored else None
