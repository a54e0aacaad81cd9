"""The options of label propagation on video."""

import dataclasses

from hpm_jax.config.segment import PatchFeatures
from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD, Run, StartOptions
from hpm_jax.data.decoding import MOST_PIXELS
from hpm_jax.fields import option


@dataclasses.dataclass(frozen=True)
class TrackData:
    """Clips of frames with annotated objects; every frame is resized to `image_size`."""

    path: str = option("", "folder in DAVIS's layout", changes_result=False)
    split: str = option(
        "val", "list of clips, ImageSets/2017/<split>.txt; without the list all clips are used"
    )
    resolution: str = option("480p", "folder of the frames in JPEGImages and Annotations")
    ignore_index: int = option(
        255, "value of annotated pixels that do not count", low=1, high=2**16 - 1
    )
    image_size: tuple[int, int] = option(
        (224, 224), "height and width to which a frame is resized", low=1, high=2**15
    )
    channels: int = option(3, "number of channels of a frame", low=1, high=1024)
    mean: tuple[float, ...] = option(
        IMAGENET_MEAN, "mean of each channel, for pixels in [0, 1]", low=-1e6, high=1e6
    )
    std: tuple[float, ...] = option(
        IMAGENET_STD, "standard deviation of each channel, for pixels in [0, 1]", low=1e-6, high=1e6
    )
    max_pixels: int = option(
        2**26,
        "largest number of pixels of a frame; a larger one is an error",
        low=1,
        high=MOST_PIXELS,
    )


@dataclasses.dataclass(frozen=True)
class Propagation:
    """How labels pass from frame to frame; the defaults are those of DINO's evaluation."""

    baselines: bool = option(
        True, "whether random weights, raw pixels and a copy of the first frame are measured too"
    )
    frames: int = option(
        7, "number of previous frames that labels come from, beside the first", low=0, high=1000
    )
    radius: int = option(
        12,
        "largest distance of a source patch in rows and columns; 0 for no limit",
        low=0,
        high=2**15,
    )
    neighbors: int = option(5, "number of source patches that a patch takes", low=1, high=10**6)
    temperature: float = option(0.1, "temperature of the affinity", low=1e-3, high=1e3)


@dataclasses.dataclass(frozen=True)
class TrackScoring:
    """How clips are encoded, scored and drawn."""

    batch_size: int = option(16, "number of frames per batch", low=1, high=10**7)
    boundary: float = option(
        0.008,
        "largest distance of matching boundaries, as a share of a frame's diagonal",
        above=0,
        high=1,
    )
    pictures: int = option(4, "number of clips that are drawn", low=0, high=100)


@dataclasses.dataclass(frozen=True)
class Track(StartOptions):
    """The options of propagating the labels of a clip's first frame by frozen tokens."""

    task: str = option("track", "name of the task")
    seed: int = option(0, "random seed of random weights", low=0, high=2**32 - 1)
    data: TrackData = TrackData()
    features: PatchFeatures = PatchFeatures()
    propagation: Propagation = Propagation()
    evaluation: TrackScoring = TrackScoring()
    run: Run = option(Run(), "how the frames are loaded", changes_result=False)
