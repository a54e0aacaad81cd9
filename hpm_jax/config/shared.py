"""What every run has: data, an optimizer, and how it is run."""

import dataclasses
import math
from typing import Any

from hpm_jax.fields import option
from hpm_jax.tokens import Grid, grid_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """What the options of every task have; a task is an entry of `hpm_jax/config/tasks.py`."""

    task: str = option("", "what the run does")
    modules: tuple[str, ...] = option((), "modules of your own that register plugs or tasks")


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from and what is done to them before the device sees them."""

    source: str = option("digits", "see hpm_jax/data/sources.py")
    path: str = option(
        "",
        "folder: the folder; tfds: its data_dir, or '' for the usual one",
        changes_result=False,
    )
    name: str = option("", "tfds: the dataset, such as 'imagenet2012'")
    train_split: str = option("train", "the folder, list or split of training images")
    test_split: str = option("test", "and of test images")
    holdout: float = option(
        0.1,
        "the share of the training images held out where there is no test split",
        low=0,
        below=1,
    )
    image_size: tuple[int, int] = option((224, 224), "height, width", low=1, high=2**15)
    channels: int = option(3, "of an image", low=1, high=1024)
    mean: tuple[float, ...] = option(
        IMAGENET_MEAN, "of each channel, for pixels in [0, 1]", low=-1e6, high=1e6
    )
    std: tuple[float, ...] = option(
        IMAGENET_STD, "of each channel, for pixels in [0, 1]", above=0, high=1e6
    )
    crop: str = option(
        "resized", "RandomResizedCrop; 'byol' for linear probes; 'multi_scale' for videos"
    )
    crop_scale: tuple[float, float] = option(
        (0.2, 1.0), "resized, byol: share of the area", above=0, high=1
    )
    crop_ratio: tuple[float, float] = option(
        (3 / 4, 4 / 3), "and width over height", low=1e-3, high=1e3
    )
    flip: float = option(0.5, "how often an image is mirrored", low=0, high=1)
    test_crop: float = option(
        0.875,
        "centre crop for evaluation, after the short side is 1 / this larger",
        low=0.1,
        high=1,
    )
    max_broken: float = option(
        0.01,
        "the share of unreadable images at which a run stops",
        low=0,
        high=1,
        changes_result=False,
    )
    synthetic_images: int = option(4096, "synthetic: how many", low=1)
    frames: int = option(1, "of a clip; an image is a video of one frame", low=1)
    sampling: str = option("dense", "or linspace, mae_st, segments: see hpm_jax/data/clips.py")
    frame_stride: int = option(4, "every how many frames of the video; segments have none", low=1)
    clips: int = option(
        1,
        "clips of each video that is decoded for training, each with its own crop",
        low=1,
        high=1000,
    )
    repeats: str = option(
        "times",
        "several clips are of new 'times', or the same 'frames' again",
        choices=("times", "frames"),
    )
    interpolation: str = option(
        "auto",
        "bilinear for videos, bicubic for images; or one of the two",
        choices=("auto", "bilinear", "bicubic"),
    )
    test_clips: int = option(
        1, "clips of a video, spread over its length, whose scores are averaged", low=1, high=1000
    )
    test_crops: int = option(
        1, "crops of each, spread along its longer side: 1, or usually 3", low=1, high=1000
    )

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Of one view of an image or a video: `(H, W, C)`, or `(T, H, W, C)`."""
        frames = (self.frames,) if self.frames > 1 else ()
        return (*frames, *self.image_size, self.channels)

    @property
    def train_shape(self) -> tuple[int, ...]:
        """Of what a batch of training holds of each: one view, or several `(R, T, H, W, C)`."""
        if self.clips == 1:
            return self.view_shape
        return (self.clips, self.frames, *self.image_size, self.channels)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW, its schedule, and how long a run is."""

    epochs: int = option(200, "of the run", low=1, high=10**6)
    batch_size: int = option(2048, "images a step, over all devices and accumulation parts", low=1)
    base_learning_rate: float = option(
        1.5e-4, "for 256 images; times batch_size / 256", low=0, high=1e3
    )
    absolute_learning_rate: float = option(
        0.0, "the peak itself; 0 for the one by the base rate", low=0, high=1e3
    )
    floor: float = option(0.0, "the learning rate at the end", low=0, high=1e3)
    warmup_epochs: float = option(40.0, "over which the learning rate rises from 0", low=0)
    weight_decay: float = option(0.05, "of matrices and learned tokens", low=0, high=1e3)
    b1: float = option(0.9, "decay of the first moment", low=0, below=1)
    b2: float = option(0.95, "decay of the second moment", low=0, below=1)
    eps: float = option(1e-8, "added to the root of the second moment", above=0, high=1)
    clip_norm: float = option(5.0, "global norm of the gradient; 0 does not clip", low=0)
    accumulation: int = option(1, "parts of a batch, one after the other", low=1)

    @property
    def learning_rate(self) -> float:
        """The peak: the absolute one, or the linear scaling rule."""
        return self.absolute_learning_rate or self.base_learning_rate * self.batch_size / 256


@dataclasses.dataclass(frozen=True)
class Run:
    """How the run is run; none of it changes a result."""

    log_every_steps: int = option(10, "between lines in metrics.jsonl", low=1)
    checkpoint_every_epochs: float = option(1.0, "between checkpoints", above=0)
    keep_checkpoints: int = option(2, "how many of the newest stay", low=1)
    workers: int = option(
        0, "processes that decode images; 0 decodes in threads of this one", low=0, high=1024
    )
    threads: int = option(4, "where there are no workers", low=1, high=1024)
    prefetch: int = option(4, "batches held ready, for each worker", low=1, high=1024)
    wandb: str = option("", "a project of Weights & Biases that gets all numbers too; '' for none")
    accept_new_data: bool = option(
        False, "whether a run goes on with data that is not what it began with"
    )
    fsdp: int = option(
        1, "over how many devices parameters, teacher and optimizer are split", low=1
    )


class OnGrid:
    """What follows for a run whose images are cut into patches."""

    data: Data
    model: Any

    @property
    def patch_size(self) -> Grid:
        """(frames, rows, columns) of a patch."""
        return (self.model.tubelet, self.model.patch_size, self.model.patch_size)

    @property
    def grid(self) -> Grid:
        """The grid of patches of one image, or of one clip."""
        return grid_of((self.data.frames, *self.data.image_size), self.patch_size)

    @property
    def patches(self) -> int:
        """Patches of one image, L."""
        return math.prod(self.grid)

    @property
    def values(self) -> int:
        """Values of one patch, P."""
        return math.prod(self.patch_size) * self.data.channels
