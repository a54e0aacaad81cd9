"""The options of fine-tuning."""

import dataclasses

from hpm_jax.config.shared import Data, OnGrid, Optimizer, Run


@dataclasses.dataclass(frozen=True)
class ClassifierModel:
    """The vision transformer of fine-tuning; its sizes are those of the pre-trained one."""

    patch_size: int = 16
    tubelet: int = 1  # frames of a patch
    width: int = 768
    depth: int = 12
    heads: int = 12
    layout: str = "mae"  # see hpm_jax/models/layouts.py
    pool: str = "mean"  # what the head reads: the "mean" of the patches, with a norm, or "cls"
    keep_norm: bool = False  # "mean": the norm starts as the pre-trained last one (mae_st)
    drop_path: float = 0.1  # stochastic depth in the last block; it grows from 0 in the first
    head_dropout: float = 0.0  # dropout before the head
    head_std: float = 2e-5  # of the head's first weights
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"


@dataclasses.dataclass(frozen=True)
class Augment:
    """What fine-tuning does to images and labels, after the random crop and the flip."""

    policy: str = "rand-m9-mstd0.5-inc1"  # RandAugment, in timm's words; "" for none
    color_jitter: float = 0.0  # brightness, contrast and saturation by 1 +- this, without a policy
    erase: float = 0.25  # how often a part of an image is erased
    erase_mode: str = "pixel"  # by noise in each "pixel", a "const" of 0, or a "rand" colour
    erase_count: int = 1  # the largest number of boxes erased in an image
    mixup: float = 0.8  # alpha of mixup; 0 for none
    cutmix: float = 1.0  # alpha of CutMix; 0 for none
    cutmix_minmax: tuple[float, ...] = ()  # or its box's sides, from and to, such as (0.2, 0.8)
    mix_probability: float = 1.0  # how often images are mixed at all
    switch_probability: float = 0.5  # how often by CutMix, where both are there
    mix_groups: int = 1  # parts of a batch, each mixed by itself: the devices of a published run
    mixup_mode: str = "batch"  # one mixture for each group, each "pair" of images, or each "elem"
    label_smoothing: float = 0.1

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0 or bool(self.cutmix_minmax)


@dataclasses.dataclass(frozen=True)
class Regularize:
    """Extra terms of the fine-tuning loss; off as they stand."""

    mask_sub: float = 0.0  # MaskSub: the share of patches hidden from a second pass, usually 0.5
    max_sup_start: float = 0.0  # MaxSup: weight of max - mean of the logits in the first epoch
    max_sup_end: float = 0.0  # and in the last; usually 0.1 to 0.2, without label smoothing


@dataclasses.dataclass(frozen=True)
class FinetuneOptimizer(Optimizer):
    """AdamW with a learning rate that shrinks towards the input."""

    epochs: int = 100
    batch_size: int = 1024
    base_learning_rate: float = 5e-4
    floor: float = 1e-6  # the learning rate at the end, before the scale of a layer
    warmup_epochs: float = 5.0
    b2: float = 0.999
    clip_norm: float = 0.0
    layer_decay: float = 0.8  # the learning rate of a layer over that of the layer above it
    average: float = 0.0  # decay of a moving average of the weights, kept beside them; 0 for none
    counted_clips: int = 1  # clips of each video that the linear scaling rule counts (mae_st: all)

    @property
    def learning_rate(self) -> float:
        """The peak: the absolute one, or the linear scaling rule, over clips where they count."""
        return self.absolute_learning_rate or super().learning_rate * self.counted_clips


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """When the whole test split is scored."""

    every_epochs: float = 1.0
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Finetune(OnGrid):
    """A fine-tuning run: all weights, with labels."""

    task: str = "finetune"
    seed: int = 0
    init_from: str = ""  # the workdir of a run, or a file of weights; see docs/weights.md
    weights: str = "student"  # which of them: student, teacher, or "random" for fresh ones
    data: Data = Data(crop_scale=(0.08, 1.0))
    model: ClassifierModel = ClassifierModel()
    augment: Augment = Augment()
    regularize: Regularize = Regularize()
    optimizer: FinetuneOptimizer = FinetuneOptimizer()
    evaluation: Accuracy = Accuracy()
    run: Run = Run()
