"""Every option of a run, with its default, as frozen dataclasses."""

import dataclasses
import math
from typing import Any

import ml_collections

from hpm_jax.masking import hidden_count
from hpm_jax.tokens import Grid, grid_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConfigError(ValueError):
    """A config that cannot run; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from and what is done to them before the device sees them."""

    source: str = "digits"  # see hpm_jax/data/sources.py
    path: str = ""  # folder: the folder; tfds: its data_dir, or "" for the usual one
    name: str = ""  # tfds: the dataset, such as "imagenet2012"
    train_split: str = "train"
    test_split: str = "test"
    holdout: float = 0.1  # the share of the training images held out where there is no test split
    image_size: tuple[int, int] = (224, 224)  # height, width
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...] = IMAGENET_STD
    crop_scale: tuple[float, float] = (0.2, 1.0)  # RandomResizedCrop: share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # and width over height
    flip: float = 0.5  # how often an image is mirrored
    test_crop: float = 0.875  # centre crop for evaluation, after the short side is 1 / this larger
    max_broken: float = 0.01  # the share of unreadable images at which a run stops
    synthetic_images: int = 4096  # synthetic: how many


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
class Optimizer:
    """AdamW, its schedule, and how long a run is."""

    epochs: int = 200
    batch_size: int = 2048  # images a step, over all devices and accumulation parts
    base_learning_rate: float = 1.5e-4  # for 256 images; times batch_size / 256
    floor: float = 0.0  # the learning rate at the end
    warmup_epochs: float = 40.0
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 5.0  # global norm of the gradient; 0 does not clip
    accumulation: int = 1  # parts of a batch, one after the other

    @property
    def learning_rate(self) -> float:
        """The peak: the linear scaling rule."""
        return self.base_learning_rate * self.batch_size / 256


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
class Run:
    """How the run is run; none of it changes a result."""

    log_every_steps: int = 10
    checkpoint_every_epochs: float = 1.0
    keep_checkpoints: int = 2
    workers: int = 0  # processes that decode images; 0 decodes in threads of this one
    threads: int = 4  # where there are no workers
    prefetch: int = 4  # batches held ready, for each worker
    fsdp: int = 1  # over how many devices parameters, teacher and optimizer are split


class OnGrid:
    """What follows for a run whose images are cut into patches."""

    data: Data
    model: Any

    @property
    def patch_size(self) -> Grid:
        """(frames, rows, columns) of a patch."""
        return (1, self.model.patch_size, self.model.patch_size)

    @property
    def grid(self) -> Grid:
        """The grid of patches of one image."""
        return grid_of((1, *self.data.image_size), self.patch_size)

    @property
    def patches(self) -> int:
        """Patches of one image, L."""
        return math.prod(self.grid)


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


@dataclasses.dataclass(frozen=True)
class ClassifierModel:
    """The vision transformer of fine-tuning; its sizes are those of the pre-trained one."""

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    pool: str = "mean"  # what the head reads: the "mean" of the patches, with a norm, or "cls"
    drop_path: float = 0.1  # stochastic depth in the last block; it grows from 0 in the first
    head_std: float = 2e-5  # of the head's first weights
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1


@dataclasses.dataclass(frozen=True)
class Augment:
    """What fine-tuning does to images and labels, after the random crop and the flip."""

    policy: str = "rand-m9-mstd0.5-inc1"  # RandAugment, in timm's words; "" for none
    erase: float = 0.25  # how often a part of an image is replaced by noise
    mixup: float = 0.8  # alpha of mixup; 0 for none
    cutmix: float = 1.0  # alpha of CutMix; 0 for none
    mix_probability: float = 1.0  # how often a batch is mixed at all
    switch_probability: float = 0.5  # how often by CutMix, where both are there
    label_smoothing: float = 0.1


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
    floor: float = 1e-6  # no layer's learning rate ends below it
    warmup_epochs: float = 5.0
    b2: float = 0.999
    clip_norm: float = 0.0
    layer_decay: float = 0.8  # the learning rate of a layer over that of the layer above it


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


@dataclasses.dataclass(frozen=True)
class Features:
    """What a frozen encoder gives of an image."""

    block: int = -1  # after which block, from 1, or from the end; -1 is the last
    pool: str = "cls"  # cls, mean, or both
    dtype: str = "float32"
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Probes:
    """What the report measures on frozen features, and how."""

    names: tuple[str, ...] = ("knn", "few_shot", "linear", "logistic")  # and "attentive"
    neighbors: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    shots: tuple[int, ...] = (1, 5, 10)  # images a class
    draws: int = 5
    epochs: int = 100  # of the linear probe
    attentive_epochs: int = 20
    attentive_heads: int = 4
    batch_size: int = 1024  # of both


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fine-tuning of a report."""

    epochs: int = 0  # 0 for none
    batch_size: int = 256
    base_learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Report:
    """A table of results of one pre-trained encoder."""

    task: str = "report"
    seed: int = 0
    init_from: str = ""  # the workdir of a run, or a file of weights; see docs/weights.md
    weights: str = "student"  # which of them: student, teacher, or "random" for fresh ones
    data: Data = Data()
    features: Features = Features()
    probes: Probes = Probes()
    finetune: Budget = Budget()
    run: Run = Run()


@dataclasses.dataclass(frozen=True)
class ProbeOptimizer:
    """How long a probe is trained, and by what; its learning rates are the sweep's."""

    kind: str = "sgd"  # sgd, lars (MAE's), or adamw
    epochs: int = 100
    batch_size: int = 2048
    base_learning_rates: tuple[float, ...] = (1e-3,)  # for 256 images, each times batch_size / 256
    weight_decays: tuple[float, ...] = (0.0,)
    momentum: float = 0.9
    warmup_epochs: float = 10.0
    floor: float = 0.0
    accumulation: int = 1

    @property
    def learning_rate(self) -> float:
        """The peak of the factor that all rates of the sweep are multiplied with."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Probe:
    """A probe on the features of augmented images: the protocol of the papers."""

    task: str = "probe"
    seed: int = 0
    init_from: str = ""
    weights: str = "student"
    head: str = "linear"  # or attentive
    choose_on: float = 0.02  # the share of training images held out to choose the setting by
    data: Data = Data(crop_scale=(0.08, 1.0))
    features: Features = Features()
    optimizer: ProbeOptimizer = ProbeOptimizer()
    evaluation: Accuracy = Accuracy()
    run: Run = Run()


TASKS: dict[str, type] = {
    "pretrain": Config,
    "finetune": Finetune,
    "report": Report,
    "probe": Probe,
}

# What a task that starts from a pre-trained encoder takes over from it, unless it is given.
INHERITED = {
    "data": [field.name for field in dataclasses.fields(Data) if field.name != "crop_scale"],
    "model": ["patch_size", "width", "depth", "heads"],
}

# Options that may differ when a workdir is gone on with: they change no result.
FREE = ("run", "evaluation", "data.path", "data.max_broken", "model.remat", "model.unroll")


def defaults(task: str = "pretrain") -> ml_collections.ConfigDict:
    """Every option at its default, as the ConfigDict that config files start from.

    Args:
        task: a name in `TASKS`. All but "pretrain" start from a pre-trained encoder: what they
            inherit from it (`INHERITED`) is None here, and stays so unless a config sets it.
    """
    config = ml_collections.ConfigDict(dataclasses.asdict(TASKS[task]()), convert_dict=True)
    for section, names in INHERITED.items() if task != "pretrain" else ():
        for name in names:
            if name in config.get(section, {}):
                kind = type(config[section][name])
                config[section][name] = ml_collections.config_dict.placeholder(kind)
    return config
