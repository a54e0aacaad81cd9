"""The options that every run has: data, optimizer, guard and execution."""

import dataclasses
import math
from typing import Any

from hpm_jax.data.decoding import MOST_PIXELS
from hpm_jax.fields import option, positive
from hpm_jax.tokens import Grid, grid_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Options that every task has; a task is an entry of `hpm_jax/config/tasks.py`."""

    task: str = option("", "name of the task")
    modules: tuple[str, ...] = option(
        (), "your own Python modules to import; they register plugs or tasks"
    )


@dataclasses.dataclass(frozen=True)
class StartOptions(TaskOptions):
    """Options of every task that starts from a pre-trained encoder."""

    seed: int = option(0, "random seed", low=0, high=2**32 - 1)
    init_from: str = option("", "workdir of a run, or a weights file; see docs/weights.md")
    weights: str = option(
        "student",
        "which weights to use: student, teacher, or 'random' (untrained)",
        choices=("student", "teacher", "random"),
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from, and how they are prepared on the host."""

    source: str = option("digits", "name of the data source; see hpm_jax/data/sources.py")
    path: str = option(
        "",
        "folder or file of the data; for tfds its data_dir, where '' is the default one",
        changes_result=False,
    )
    name: str = option("", "name of the data set for tfds and hugging_face, such as 'imagenet2012'")
    train_split: str = option("train", "folder, list or split of the training images")
    test_split: str = option("test", "folder, list or split of the test images")
    holdout: float = option(
        0.1,
        "fraction of the training images to hold out if there is no test split",
        low=0,
        below=1,
    )
    image_key: str = option(
        "", "column or array of the images (hugging_face, webdataset, parquet, numpy); '' finds it"
    )
    label_key: str = option("", "column or array of the labels; '' finds it, 'none' for no labels")
    channels_first: bool = option(
        False, "whether numpy and tiff arrays are [N, C, H, W] rather than [N, H, W, C]"
    )
    value_range: tuple[float, ...] = option(
        (),
        "(low, high): values that are mapped to 0 and 1 in float32, for 16-bit and float data; () "
        "for 8-bit images",
        low=-1e12,
        high=1e12,
    )
    image_size: tuple[int, int] = option(
        (224, 224), "height and width of an image in pixels", low=1, high=2**15
    )
    channels: int = option(3, "number of channels of an image", low=1, high=1024)
    mean: tuple[float, ...] = option(
        IMAGENET_MEAN, "mean of each channel, for pixels in [0, 1]", low=-1e6, high=1e6
    )
    std: tuple[float, ...] = option(
        IMAGENET_STD, "standard deviation of each channel, for pixels in [0, 1]", low=1e-6, high=1e6
    )
    crop: str = option(
        "resized",
        "training crop: 'resized' (RandomResizedCrop), 'byol' for linear probes, or 'multi_scale' "
        "for videos",
    )
    crop_scale: tuple[float, float] = option(
        (0.2, 1.0), "lowest and highest fraction of the area (resized, byol)", above=0, high=1
    )
    crop_ratio: tuple[float, float] = option(
        (3 / 4, 4 / 3), "lowest and highest width over height (resized, byol)", low=1e-3, high=1e3
    )
    flip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    test_crop: float = option(
        0.875,
        "centre crop for evaluation, as a fraction of the resized short side",
        low=0.1,
        high=1,
    )
    max_broken: float = option(
        0.01,
        "fraction of unreadable images above which the run stops",
        low=0,
        high=1,
        changes_result=False,
    )
    max_pixels: int = option(
        2**26,
        "largest number of pixels of an image or frame; a larger one counts as unreadable, because "
        "decoding takes up to 20 bytes per pixel",
        low=1,
        high=MOST_PIXELS,
    )
    synthetic_images: int = option(
        4096, "number of images of the source 'synthetic'", low=1, high=10**8
    )
    frames: int = option(
        1, "number of frames per clip; an image is a video of one frame", low=1, high=2**15
    )
    sampling: str = option(
        "dense", "frame sampling: dense, linspace, mae_st or segments; see hpm_jax/data/clips.py"
    )
    frame_stride: int = option(
        4, "use every n-th frame of the video; ignored by 'segments'", low=1, high=10**6
    )
    clips: int = option(
        1,
        "number of training clips per decoded video, each with its own crop",
        low=1,
        high=1000,
    )
    repeats: str = option(
        "times",
        "whether several clips of a video have different 'times' or the same 'frames'",
        choices=("times", "frames"),
    )
    interpolation: str = option(
        "auto",
        "interpolation when resizing; auto is bilinear for videos and bicubic for images",
        choices=("auto", "bilinear", "bicubic"),
    )
    test_clips: int = option(
        1,
        "number of test clips per video, spread over its length; scores are averaged",
        low=1,
        high=1000,
    )
    test_crops: int = option(
        1,
        "number of test crops per clip, spread along the longer side, usually 1 or 3",
        low=1,
        high=1000,
    )

    @property
    def pixel_dtype(self) -> str:
        """The dtype of the images in a batch."""
        return "float32" if self.value_range else "uint8"

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The shape of one view of an image or a video: `(H, W, C)`, or `(T, H, W, C)`."""
        frames = (self.frames,) if self.frames > 1 else ()
        return (*frames, *self.image_size, self.channels)

    @property
    def train_shape(self) -> tuple[int, ...]:
        """The shape of one example of a training batch: one view, or several `(R, T, H, W, C)`."""
        if self.clips == 1:
            return self.view_shape
        return (self.clips, self.frames, *self.image_size, self.channels)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW, its schedule, and the length of a run."""

    epochs: int = option(200, "number of epochs", low=1, high=10**6)
    batch_size: int = option(
        2048,
        "number of images per step, over all devices and accumulation parts",
        low=1,
        high=10**7,
    )
    base_learning_rate: float = option(
        1.5e-4,
        "peak learning rate per 256 images; it is scaled by batch_size / 256",
        low=0,
        high=1e3,
    )
    absolute_learning_rate: float = option(
        0.0, "peak learning rate, not scaled; 0 uses base_learning_rate", low=0, high=1e3
    )
    floor: float = option(0.0, "learning rate at the end of the run", low=0, high=1e3)
    warmup_epochs: float = option(
        40.0, "number of epochs in which the learning rate rises from 0", low=0, high=10**6
    )
    weight_decay: float = option(
        0.05, "weight decay of matrices and learned tokens", low=0, high=1e3
    )
    b1: float = option(0.9, "decay rate of Adam's first moment", low=0, below=1)
    b2: float = option(0.95, "decay rate of Adam's second moment", low=0, below=1)
    eps: float = option(
        1e-8, "Adam's epsilon, added to the root of the second moment", low=1e-20, high=1
    )
    clip_norm: float = option(
        5.0, "largest global norm of the gradient; 0 does not clip", low=0, high=1e9
    )
    accumulation: int = option(
        1, "number of gradient accumulation parts per batch", low=1, high=10**7
    )

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: the absolute one, or by the linear scaling rule."""
        return self.absolute_learning_rate or self.base_learning_rate * self.batch_size / 256


@dataclasses.dataclass(frozen=True)
class Run:
    """How the run is executed; these options do not change a result."""

    log_every_steps: int = option(
        10, "number of steps between lines in metrics.jsonl", low=1, high=10**9
    )
    checkpoint_every_epochs: float = option(
        1.0, "number of epochs between checkpoints", above=0, high=10**6
    )
    keep_checkpoints: int = option(
        2, "number of checkpoints to keep, the newest ones", low=1, high=10**6
    )
    workers: int = option(
        0, "number of processes that decode images; 0 decodes in threads", low=0, high=1024
    )
    threads: int = option(4, "number of decoding threads if there are no workers", low=1, high=1024)
    prefetch: int = option(4, "number of prefetched batches per worker", low=1, high=1024)
    wandb: str = option("", "Weights & Biases project to which all metrics are logged; '' for none")
    accept_new_data: bool = option(
        False, "whether a run may resume with data that differs from its start"
    )
    accept_new_options: bool = option(
        False,
        "whether a run may resume with another optimizer or dtype; see docs/launching.md",
    )
    grace_seconds: float = option(
        90.0,
        "seconds after a signal until a stuck run exits without another checkpoint",
        low=1,
        high=86400,
    )
    fsdp: int = option(
        1,
        "number of devices over which parameters, teacher and optimizer are sharded",
        low=1,
        high=10**6,
    )
    compilation_cache: str = option(
        "auto",
        "folder of compiled programs, which the next run need not compile; 'auto' is one in the "
        "user's cache where that is safe, 'off' is none; see docs/performance.md",
    )


@dataclasses.dataclass(frozen=True)
class Guard:
    """What a run does about a diverging update; see docs/reliability.md."""

    policy: str = option(
        "stop",
        "what to do about a bad update: stop the run, skip the update, or go_back to the last "
        "checkpoint and leave out the batch",
        choices=("stop", "skip", "go_back"),
    )
    spike: float = option(
        0.0,
        "multiple of the running mean above which a gradient norm counts as bad; 0 for no limit",
        low=0,
        high=1e6,
    )
    batches: int = positive(
        1, "number of batches that go_back leaves out, up to and including the bad one"
    )
    most: int = positive(
        10, "number of skipped updates, or of returns to a checkpoint, before the run ends"
    )

    @property
    def watches(self) -> bool:
        """Whether the step checks each update."""
        return self.policy != "stop" or self.spike > 0


class OnGrid:
    """The patch grid of a run, derived from its data and model options."""

    data: Data
    model: Any

    @property
    def patch_size(self) -> Grid:
        """The size of a patch: (frames, rows, columns)."""
        return (self.model.tubelet, self.model.patch_size, self.model.patch_size)

    @property
    def grid(self) -> Grid:
        """The grid of patches of one image, or of one clip."""
        return grid_of((self.data.frames, *self.data.image_size), self.patch_size)

    @property
    def patches(self) -> int:
        """Number of patches of one image, L."""
        return math.prod(self.grid)

    @property
    def values(self) -> int:
        """Number of values of one patch, P."""
        return math.prod(self.patch_size) * self.data.channels


@dataclasses.dataclass(frozen=True)
class ScoredData:
    """The images that a finished run is scored on; everything else is as in its run."""

    path: str = option("", "folder of the data; '' is that of the run", changes_result=False)
    test_split: str = option("", "folder of the images to score; '' is that of the run")
