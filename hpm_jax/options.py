"""Every option of a run, with its default, as frozen dataclasses."""

import dataclasses
import math

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


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    task: str = "pretrain"
    seed: int = 0
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

    @property
    def hidden(self) -> int:
        """Hidden patches of one image, M."""
        return hidden_count(self.patches, self.mask.ratio)


# Options that may differ when a workdir is gone on with: they change no result.
FREE = ("run", "evaluation", "data.path", "data.max_broken", "model.remat", "model.unroll")


def defaults() -> ml_collections.ConfigDict:
    """Every option at its default, as the ConfigDict that config files start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), convert_dict=True)
