"""What every run has: data, an optimizer, and how it is run."""

import dataclasses
import math
from typing import Any

from hpm_jax.tokens import Grid, grid_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    crop: str = "resized"  # RandomResizedCrop; "byol" for linear probes; "multi_scale" for videos
    crop_scale: tuple[float, float] = (0.2, 1.0)  # resized, byol: share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # and width over height
    flip: float = 0.5  # how often an image is mirrored
    test_crop: float = 0.875  # centre crop for evaluation, after the short side is 1 / this larger
    max_broken: float = 0.01  # the share of unreadable images at which a run stops
    synthetic_images: int = 4096  # synthetic: how many
    frames: int = 1  # of a clip; an image is a video of one frame
    sampling: str = "dense"  # or linspace, mae_st, segments: see hpm_jax/data/clips.py
    frame_stride: int = 4  # every how many frames of the video; segments have none
    clips: int = 1  # clips of each video that is decoded for training, each with its own crop
    repeats: str = "times"  # several clips are of new "times", or the same "frames" again
    interpolation: str = "auto"  # bilinear for videos, bicubic for images; or one of the two
    test_clips: int = 1  # clips of a video, spread over its length, whose scores are averaged
    test_crops: int = 1  # crops of each, spread along its longer side: 1, or usually 3

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

    epochs: int = 200
    batch_size: int = 2048  # images a step, over all devices and accumulation parts
    base_learning_rate: float = 1.5e-4  # for 256 images; times batch_size / 256
    absolute_learning_rate: float = 0.0  # the peak itself; 0 for the one by the base rate
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
        """The peak: the absolute one, or the linear scaling rule."""
        return self.absolute_learning_rate or self.base_learning_rate * self.batch_size / 256


@dataclasses.dataclass(frozen=True)
class Run:
    """How the run is run; none of it changes a result."""

    log_every_steps: int = 10
    checkpoint_every_epochs: float = 1.0
    keep_checkpoints: int = 2
    workers: int = 0  # processes that decode images; 0 decodes in threads of this one
    threads: int = 4  # where there are no workers
    prefetch: int = 4  # batches held ready, for each worker
    wandb: str = ""  # a project of Weights & Biases that gets all numbers too; "" for none
    fsdp: int = 1  # over how many devices parameters, teacher and optimizer are split


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
