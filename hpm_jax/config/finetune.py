"""The options of fine-tuning."""

import dataclasses

from hpm_jax.config.model import ClassifierModel
from hpm_jax.config.shared import Data, OnGrid, Optimizer, Run, TaskOptions
from hpm_jax.fields import option


@dataclasses.dataclass(frozen=True)
class Augment:
    """What fine-tuning does to images and labels, after the random crop and the flip."""

    policy: str = option("rand-m9-mstd0.5-inc1", "RandAugment, in timm's words; '' for none")
    color_jitter: float = option(
        0.0, "brightness, contrast and saturation by 1 +- this, without a policy", low=0, high=1
    )
    erase: float = option(0.25, "how often a part of an image is erased", low=0, high=1)
    erase_mode: str = option(
        "pixel",
        "by noise in each 'pixel', a 'const' of 0, or a 'rand' colour",
        choices=("pixel", "const", "rand"),
    )
    erase_count: int = option(1, "the largest number of boxes erased in an image", low=1, high=1000)
    mixup: float = option(0.8, "alpha of mixup; 0 for none", low=0, high=1e3)
    cutmix: float = option(1.0, "alpha of CutMix; 0 for none", low=0, high=1e3)
    cutmix_minmax: tuple[float, ...] = option(
        (), "or its box's sides, from and to, such as (0.2, 0.8)", low=0, high=1
    )
    mix_probability: float = option(1.0, "how often images are mixed at all", low=0, high=1)
    switch_probability: float = option(
        0.5, "how often by CutMix, where both are there", low=0, high=1
    )
    mix_groups: int = option(
        1, "parts of a batch, each mixed by itself: the devices of a published run", low=1
    )
    mixup_mode: str = option(
        "batch",
        "one mixture for each group, each 'pair' of images, or each 'elem'",
        choices=("batch", "pair", "elem"),
    )
    label_smoothing: float = option(0.1, "mass spread over all classes", low=0, high=1)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0 or bool(self.cutmix_minmax)


@dataclasses.dataclass(frozen=True)
class Regularize:
    """Extra terms of the fine-tuning loss; off as they stand."""

    mask_sub: float = option(
        0.0, "MaskSub: the share of patches hidden from a second pass, usually 0.5", low=0, below=1
    )
    max_sup_start: float = option(
        0.0, "MaxSup: weight of max - mean of the logits in the first epoch", low=0, high=1e3
    )
    max_sup_end: float = option(
        0.0, "and in the last; usually 0.1 to 0.2, without label smoothing", low=0, high=1e3
    )


@dataclasses.dataclass(frozen=True)
class FinetuneOptimizer(Optimizer):
    """AdamW with a learning rate that shrinks towards the input."""

    epochs: int = option(100, "of the run", low=1, high=10**6)
    batch_size: int = option(1024, "images at once", low=1)
    base_learning_rate: float = option(5e-4, "for 256 images", low=0, high=1e3)
    floor: float = option(
        1e-6, "the learning rate at the end, before the scale of a layer", low=0, high=1e3
    )
    warmup_epochs: float = option(5.0, "over which the learning rate rises from 0", low=0)
    b2: float = option(0.999, "decay of the second moment", low=0, below=1)
    clip_norm: float = option(
        0.0, "the largest global norm of the gradient; 0 does not clip", low=0
    )
    layer_decay: float = option(
        0.8, "the learning rate of a layer over that of the layer above it", above=0, high=1
    )
    average: float = option(
        0.0,
        "decay of a moving average of the weights, kept beside them; 0 for none",
        low=0,
        below=1,
    )
    counted_clips: int = option(
        1, "clips of each video that the linear scaling rule counts (mae_st: all)", low=1
    )

    @property
    def learning_rate(self) -> float:
        """The peak: the absolute one, or the linear scaling rule, over clips where they count."""
        return self.absolute_learning_rate or super().learning_rate * self.counted_clips


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """When the whole test split is scored."""

    every_epochs: float = option(1.0, "between evaluations; 0 for none", low=0)
    batch_size: int = option(256, "images at once", low=1)


@dataclasses.dataclass(frozen=True)
class Finetune(TaskOptions, OnGrid):
    """A fine-tuning run: all weights, with labels."""

    task: str = option("finetune", "what the run does")
    seed: int = option(0, "of all random numbers", low=0, high=2**32 - 1)
    init_from: str = option("", "the workdir of a run, or a file of weights; see docs/weights.md")
    weights: str = option(
        "student",
        "which of them: student, teacher, or 'random' for fresh ones",
        choices=("student", "teacher", "random"),
    )
    data: Data = Data(crop_scale=(0.08, 1.0))
    model: ClassifierModel = ClassifierModel()
    augment: Augment = Augment()
    regularize: Regularize = Regularize()
    optimizer: FinetuneOptimizer = FinetuneOptimizer()
    evaluation: Accuracy = option(Accuracy(), "what is measured on the way", changes_result=False)
    run: Run = option(Run(), "how the run is run", changes_result=False)
