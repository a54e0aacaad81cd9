"""The options of fine-tuning."""

import dataclasses

from hpm_jax.config.model import ClassifierModel
from hpm_jax.config.shared import Data, Guard, OnGrid, Optimizer, Run, StartOptions
from hpm_jax.fields import option
from hpm_jax.regularizers import Regularizer


@dataclasses.dataclass(frozen=True)
class Augment:
    """Augmentation of images and labels in fine-tuning, after the random crop and the flip."""

    policy: str = option(
        "rand-m9-mstd0.5-inc1", "RandAugment policy in timm's notation; '' for none"
    )
    color_jitter: float = option(
        0.0,
        "strength of brightness, contrast and saturation jitter, without a policy",
        low=0,
        high=1,
    )
    erase: float = option(0.25, "probability of random erasing", low=0, high=1)
    erase_mode: str = option(
        "pixel",
        "what replaces an erased box: noise per 'pixel', a 'const' of 0, or a 'rand' colour",
        choices=("pixel", "const", "rand"),
    )
    erase_count: int = option(1, "largest number of boxes erased in an image", low=1, high=1000)
    mixup: float = option(0.8, "alpha of Mixup; 0 for none", low=0, high=1e3)
    cutmix: float = option(1.0, "alpha of CutMix; 0 for none", low=0, high=1e3)
    cutmix_minmax: tuple[float, ...] = option(
        (),
        "range of the sides of CutMix's box, such as (0.2, 0.8), in place of alpha",
        low=0,
        high=1,
    )
    mix_probability: float = option(1.0, "probability that images are mixed", low=0, high=1)
    switch_probability: float = option(
        0.5, "probability of CutMix rather than Mixup, if both are on", low=0, high=1
    )
    mix_groups: int = option(
        1,
        "number of parts of a batch that are mixed separately: the devices of a published run",
        low=1,
        high=10**6,
    )
    mixup_mode: str = option(
        "batch",
        "what shares a mixing factor: the whole group ('batch'), a 'pair', or one image ('elem')",
        choices=("batch", "pair", "elem"),
    )
    label_smoothing: float = option(0.1, "probability mass spread over all classes", low=0, high=1)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0 or bool(self.cutmix_minmax)


@dataclasses.dataclass(frozen=True)
class Regularize:
    """Extra terms of the fine-tuning loss, off by default."""

    mask_sub: float = option(
        0.0, "MaskSub: fraction of patches hidden from a second pass, usually 0.5", low=0, below=1
    )
    max_sup_start: float = option(
        0.0, "MaxSup: weight of (max - mean) of the logits in the first epoch", low=0, high=1e3
    )
    max_sup_end: float = option(
        0.0,
        "MaxSup: weight in the last epoch, usually 0.1 to 0.2, without smoothing",
        low=0,
        high=1e3,
    )
    terms: tuple[Regularizer, ...] = option(
        (), "further terms, such as ('virtual_adversarial(weight=1.0)',); see docs/evaluation.md"
    )


@dataclasses.dataclass(frozen=True)
class FinetuneOptimizer(Optimizer):
    """AdamW with layer-wise learning rate decay."""

    epochs: int = option(100, "number of epochs", low=1, high=10**6)
    batch_size: int = option(1024, "number of images per step", low=1, high=10**7)
    base_learning_rate: float = option(5e-4, "peak learning rate per 256 images", low=0, high=1e3)
    floor: float = option(
        1e-6, "learning rate at the end of the run, before layer decay", low=0, high=1e3
    )
    warmup_epochs: float = option(
        5.0, "number of epochs in which the learning rate rises from 0", low=0, high=10**6
    )
    b2: float = option(0.999, "decay rate of Adam's second moment", low=0, below=1)
    clip_norm: float = option(
        0.0, "largest global norm of the gradient; 0 does not clip", low=0, high=1e9
    )
    layer_decay: float = option(
        0.8, "learning rate of a layer relative to the layer above it", above=0, high=1
    )
    average: float = option(
        0.0,
        "decay of an exponential moving average of the weights; 0 for none",
        low=0,
        below=1,
    )
    counted_clips: int = option(
        1, "clips per video that the linear scaling rule counts (mae_st: all)", low=1, high=1000
    )

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: the absolute one, or the linear scaling rule over clips."""
        return self.absolute_learning_rate or super().learning_rate * self.counted_clips


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often the whole test split is scored."""

    every_epochs: float = option(
        1.0, "number of epochs between evaluations; 0 for none", low=0, high=10**6
    )
    batch_size: int = option(256, "number of images per evaluation batch", low=1, high=10**7)


@dataclasses.dataclass(frozen=True)
class Finetune(StartOptions, OnGrid):
    """The options of fine-tuning: all weights are trained, with labels."""

    task: str = option("finetune", "name of the task")
    labels: str = option(
        "one",
        "classes of an image: 'one' (softmax), or 'many', any number of them (sigmoids)",
        choices=("one", "many"),
    )
    data: Data = Data(crop_scale=(0.08, 1.0))
    model: ClassifierModel = ClassifierModel()
    augment: Augment = Augment()
    regularize: Regularize = Regularize()
    optimizer: FinetuneOptimizer = FinetuneOptimizer()
    evaluation: Accuracy = option(Accuracy(), "evaluations during training", changes_result=False)
    guard: Guard = option(Guard(), "what to do about divergence", changes_result=False)
    run: Run = option(Run(), "how the run is executed", changes_result=False)
