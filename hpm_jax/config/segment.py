"""The options of semantic segmentation."""

import dataclasses

from hpm_jax.config.model import EncoderOptions
from hpm_jax.config.shared import (
    Data,
    Guard,
    OnGrid,
    Optimizer,
    Run,
    ScoredData,
    StartOptions,
    TaskOptions,
)
from hpm_jax.fields import option, positive
from hpm_jax.models.segment_decoders import LinearHead, SegmentDecoder


@dataclasses.dataclass(frozen=True)
class SegmentData(Data):
    """Images with label maps; `image_size` is that of a training crop and of a test window."""

    source: str = option("label_maps", "name of the data source, which must have label maps")
    test_split: str = option("val", "folder of the test images")
    ignore_index: int = option(
        255, "value of pixels that are left out of loss and scores", low=0, high=2**16 - 1
    )
    label_map_key: str = option(
        "", "feature of the label maps, for tfds; '' finds segmentation_mask and the like"
    )
    reduce_zero_label: bool = option(
        False, "whether 0 is left out and class 0 is stored as 1, as in ADE20K"
    )
    classes: int = option(
        0,
        "number of classes; 0 takes it from classes.txt or objectInfo150.txt in config.data.path",
        low=0,
        high=2**15 - 1,
    )
    short_side: int = option(
        0,
        "short side to which images are resized before jitter and for tests; 0 leaves them as they "
        "are",
        low=0,
        high=2**15,
    )


@dataclasses.dataclass(frozen=True)
class SegmentAugment:
    """Augmentation of images and label maps, beside the crop of `config.data.image_size`."""

    scale: tuple[float, float] = option(
        (0.5, 2.0), "lowest and highest factor of the image's size", low=0.01, high=100
    )
    max_share: float = option(
        0.75,
        "share of one class from which a crop is drawn again, up to ten times; 1 takes any crop",
        above=0,
        high=1,
    )
    photometric: bool = option(
        True, "whether brightness, contrast, saturation and hue are distorted"
    )


@dataclasses.dataclass(frozen=True)
class SegmentModel(EncoderOptions):
    """The encoder, with the sizes of the pre-trained one, and what the decoder starts from."""

    relative_positions: bool = option(
        False, "whether blocks learn relative positions of patches, from zeros (BEiT)"
    )
    frozen: bool = option(
        False, "whether the encoder is frozen: a linear probe on normalised patch tokens"
    )
    raw_pixels: bool = option(
        False, "whether the decoder reads the pixels of each patch, as a baseline without encoder"
    )
    drop_path: float = option(
        0.1, "stochastic depth rate of the last block; it grows linearly from 0", low=0, below=1
    )
    head_std: float = option(
        0.01, "standard deviation of the decoder's initial weights", above=0, high=1e3
    )


@dataclasses.dataclass(frozen=True)
class SegmentRegularize:
    """Extra terms of the segmentation loss, off by default."""

    mask_sup: float = option(
        0.0,
        "MaskSup: probability that a patch is hidden in a second pass, such as 0.3",
        low=0,
        below=1,
    )
    similarity: float = option(
        1.0, "MaskSup: weight of the squared difference of both passes' softmax", low=0, high=1e6
    )


@dataclasses.dataclass(frozen=True)
class SegmentOptimizer(Optimizer):
    """AdamW with layer-wise learning rate decay."""

    epochs: int = option(100, "number of epochs", low=1, high=10**6)
    batch_size: int = option(16, "number of images per step", low=1, high=10**7)
    base_learning_rate: float = option(0.0, "peak learning rate per 256 images", low=0, high=1e3)
    absolute_learning_rate: float = option(
        1e-4, "peak learning rate, not scaled; 0 uses base_learning_rate", low=0, high=1e3
    )
    decay: str = option(
        "cosine",
        "how the learning rate falls after the warm-up: half a cosine, or linear (MMSegmentation)",
        choices=("cosine", "linear"),
    )
    warmup_epochs: float = option(
        1.0, "number of epochs in which the learning rate rises from 0", low=0, high=10**6
    )
    b2: float = option(0.999, "decay rate of Adam's second moment", low=0, below=1)
    clip_norm: float = option(
        0.0, "largest global norm of the gradient; 0 does not clip", low=0, high=1e9
    )
    layer_decay: float = option(
        0.65, "learning rate of a layer relative to the layer above it", above=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class SegmentWindows:
    """How a split is scored: at the size of the images, by sliding windows."""

    batch_size: int = option(16, "number of windows per evaluation batch", low=1, high=10**7)
    stride: float = option(
        2 / 3, "step between windows, as a share of config.data.image_size", above=0, high=1
    )
    scales: tuple[float, ...] = option(
        (1.0,), "factors of the size at which images are seen", low=0.01, high=100
    )
    flip: bool = option(False, "whether mirrored images are seen too")


@dataclasses.dataclass(frozen=True)
class SegmentViews(SegmentWindows):
    """How a split is scored and drawn."""

    pictures: int = option(4, "number of test images that are drawn", low=0, high=100)


@dataclasses.dataclass(frozen=True)
class SegmentScoring(SegmentViews):
    """How, and how often, the whole test split is scored during training."""

    every_epochs: float = option(
        10.0, "number of epochs between evaluations; 0 for none", low=0, high=10**6
    )


@dataclasses.dataclass(frozen=True)
class Segment(StartOptions, OnGrid):
    """The options of semantic segmentation."""

    task: str = option("segment", "name of the task")
    data: SegmentData = SegmentData()
    augment: SegmentAugment = SegmentAugment()
    model: SegmentModel = SegmentModel()
    decoder: SegmentDecoder = option(
        LinearHead(), "decoder of the classes, as in 'upernet(channels=768)'"
    )
    regularize: SegmentRegularize = SegmentRegularize()
    optimizer: SegmentOptimizer = SegmentOptimizer()
    evaluation: SegmentScoring = option(
        SegmentScoring(), "evaluations during training", changes_result=False
    )
    guard: Guard = option(Guard(), "what to do about divergence", changes_result=False)
    run: Run = option(Run(), "how the run is executed", changes_result=False)


@dataclasses.dataclass(frozen=True)
class SegmentEvaluate(TaskOptions):
    """The options of scoring a finished segmenter."""

    task: str = option("segment_evaluate", "name of the task")
    init_from: str = option("", "workdir of a segmentation run, or its folder best")
    data: ScoredData = ScoredData()
    evaluation: SegmentViews = SegmentViews()
    run: Run = option(Run(), "how the images are loaded", changes_result=False)


@dataclasses.dataclass(frozen=True)
class PatchFeatures:
    """Which patch tokens of a frozen encoder are classified."""

    block: int = option(
        -1, "block whose output is used, from 1; -1 is the last", low=-1024, high=1024
    )
    dtype: str = option("float32", "dtype of matrix products", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class PatchProbes:
    """Which probes are fitted to patches of the training images, and how."""

    names: tuple[str, ...] = option(("logistic", "knn"), "probes: logistic, knn")
    baselines: bool = option(True, "whether random weights and raw pixels are measured too")
    bank: int = option(
        50_000, "number of patches of the training images, as many of each", low=100, high=10**8
    )
    penalties: tuple[float, ...] = option(
        (1e-1, 1e-2, 1e-3, 1e-4),
        "penalties of the logistic regression, of which one is chosen on a tenth of the patches",
        above=0,
        high=1e6,
    )
    iterations: int = option(200, "largest number of L-BFGS iterations", low=1, high=10**6)
    neighbors: int = positive(20, "number of neighbours of kNN", high=10**6)
    temperature: float = option(0.07, "temperature of kNN's votes", low=1e-3, high=1e3)


@dataclasses.dataclass(frozen=True)
class SegmentProbe(StartOptions):
    """The options of probing frozen patch tokens."""

    task: str = option("segment_probe", "name of the task")
    seed: int = option(0, "random seed of random weights and of the patches", low=0, high=2**32 - 1)
    data: SegmentData = SegmentData()
    features: PatchFeatures = PatchFeatures()
    probes: PatchProbes = PatchProbes()
    evaluation: SegmentWindows = SegmentWindows()
    run: Run = option(Run(), "how the images are loaded", changes_result=False)
