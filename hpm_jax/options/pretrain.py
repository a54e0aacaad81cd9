"""The options of pre-training."""

import dataclasses

from hpm_jax.masking import hidden_count
from hpm_jax.options.shared import Data, OnGrid, Optimizer, Run


@dataclasses.dataclass(frozen=True)
class Model:
    """The masked autoencoder; `hpm_jax/models/sizes.py` has the usual sizes."""

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    dtype: str = "float32"  # of matrix products: float32 or bfloat16
    remat: str = "none"  # what the backward pass recomputes: none, dots (keeps products), full
    unroll: int = 1  # blocks unrolled in each scan; 0 unrolls all


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which patches are hidden."""

    strategy: str = "hard"
    ratio: float = 0.75
    hard_start: float = 0.0  # the share of hidden patches that are hard: alpha_0
    hard_end: float = 0.5  # and alpha_T
    schedule: str = "epoch"  # the share moves once an epoch, or with every "step"


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The loss predictor's loss."""

    loss: str = "relative"  # relative, absolute, or none: then there is no loss predictor
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The moving average of the student."""

    keep: bool = True
    decay_start: float = 0.999
    decay_end: float = 0.9999
    ramp_epochs: int = 100


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
    data: Data = Data()
    model: Model = Model()
    mask: MaskOptions = MaskOptions()
    ranking: Ranking = Ranking()
    teacher: Teacher = Teacher()
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    run: Run = Run()

    @property
    def hidden(self) -> int:
        """Hidden patches of one image, M."""
        return hidden_count(self.patches, self.mask.ratio)
