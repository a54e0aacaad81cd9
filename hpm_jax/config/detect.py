"""The options of object detection and instance segmentation."""

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

BOX_HEADS = ("4conv1fc", "2fc")


@dataclasses.dataclass(frozen=True)
class DetectData(Data):
    """Images with boxes; `image_size` is that of a training crop and of a padded test image."""

    source: str = option("coco", "name of the data source, which must have boxes")
    test_split: str = option("val", "name of the annotation file of the test images")
    max_objects: int = positive(
        100, "number of objects of a training view; more are left out at random", high=10**4
    )
    skip_invalid: bool = option(
        False,
        "whether empty boxes, boxes outside their image and degenerate masks are left out rather "
        "than an error",
    )
    mask_cells: int = option(
        112, "rows and columns of the array that holds the mask of an object", low=8, high=1024
    )


@dataclasses.dataclass(frozen=True)
class DetectAugment:
    """Large-scale jitter, beside the crop of `config.data.image_size` and flips."""

    scale: tuple[float, float] = option(
        (0.1, 2.0), "lowest and highest size of the image, relative to the crop", low=0.01, high=100
    )


@dataclasses.dataclass(frozen=True)
class DetectModel(EncoderOptions):
    """The encoder, with the sizes of the pre-trained one, a feature pyramid and Mask R-CNN."""

    window: int = option(
        14,
        "side of the windows of attention in patches; 0 for attention over the image",
        low=0,
        high=2**15,
    )
    global_blocks: int = positive(
        4, "number of blocks with attention over the whole image, spread evenly", high=1024
    )
    relative_positions: bool = option(
        False, "whether blocks learn decomposed relative positions, from zeros (ViTDet)"
    )
    masks: bool = option(True, "whether masks are predicted besides boxes")
    frozen: bool = option(
        False, "whether the encoder is frozen: pyramid and heads learn on its normalised tokens"
    )
    channels: int = option(256, "channels of the pyramid and of all heads", low=4, high=2**14)
    box_head: str = option("4conv1fc", "layers of the head of boxes", choices=BOX_HEADS)
    box_width: int = option(1024, "width of that head's linear layers", low=4, high=2**14)
    anchor_scale: float = option(
        8.0, "side of a square anchor, relative to the stride of its level", above=0, high=1e3
    )
    level_proposals: int = positive(
        2000, "anchors of each level that become candidates of proposals in training", high=10**5
    )
    test_level_proposals: int = positive(
        1000, "anchors of each level that become candidates of proposals in tests", high=10**5
    )
    proposals: int = positive(1000, "number of proposals of an image", high=10**5)
    sampled_anchors: int = positive(256, "number of anchors of an image in the loss", high=10**6)
    sampled_proposals: int = positive(
        512, "number of proposals of an image in the loss", high=10**5
    )
    drop_path: float = option(
        0.1, "stochastic depth rate of the last block; it grows linearly from 0", low=0, below=1
    )


@dataclasses.dataclass(frozen=True)
class DetectOptimizer(Optimizer):
    """AdamW with layer-wise learning rate decay; the defaults are ViTDet-B's."""

    epochs: int = option(100, "number of epochs", low=1, high=10**6)
    batch_size: int = option(64, "number of images per step", low=1, high=10**7)
    base_learning_rate: float = option(0.0, "peak learning rate per 256 images", low=0, high=1e3)
    absolute_learning_rate: float = option(
        1e-4, "peak learning rate, not scaled; 0 uses base_learning_rate", low=0, high=1e3
    )
    decay: str = option(
        "steps",
        "how the learning rate falls after the warm-up: in steps to a tenth, or half a cosine",
        choices=("steps", "cosine"),
    )
    milestones: tuple[float, ...] = option(
        (8 / 9, 26 / 27), "shares of the run after which it is divided by ten", above=0, below=1
    )
    warmup_epochs: float = option(
        0.14, "number of epochs in which the learning rate rises from 0", low=0, high=10**6
    )
    weight_decay: float = option(0.1, "weight decay of matrices", low=0, high=1e3)
    b2: float = option(0.999, "decay rate of Adam's second moment", low=0, below=1)
    clip_norm: float = option(
        0.0, "largest global norm of the gradient; 0 does not clip", low=0, high=1e9
    )
    layer_decay: float = option(
        0.7, "learning rate of a layer relative to the layer above it", above=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class DetectLimits:
    """How objects are found in test images."""

    batch_size: int = option(8, "number of images per evaluation batch", low=1, high=10**7)
    detections: int = positive(100, "number of detections of an image", high=10**4)
    candidates: int = positive(
        1000, "number of pairs of proposal and class that non-maximum suppression sees", high=10**5
    )
    lowest_score: float = option(0.05, "score below which nothing is detected", low=0, below=1)
    overlap: float = option(
        0.5,
        "overlap above which the better detection of a class suppresses the other",
        above=0,
        high=1,
    )
    pictures: int = option(4, "number of test images that are drawn", low=0, high=100)


@dataclasses.dataclass(frozen=True)
class DetectScoring(DetectLimits):
    """How, and how often, the test split is scored during training."""

    every_epochs: float = option(
        10.0, "number of epochs between evaluations; 0 for none", low=0, high=10**6
    )


@dataclasses.dataclass(frozen=True)
class Detect(StartOptions, OnGrid):
    """The options of object detection."""

    task: str = option("detect", "name of the task")
    data: DetectData = DetectData()
    augment: DetectAugment = DetectAugment()
    model: DetectModel = DetectModel()
    optimizer: DetectOptimizer = DetectOptimizer()
    evaluation: DetectScoring = option(
        DetectScoring(), "evaluations during training", changes_result=False
    )
    guard: Guard = option(Guard(), "what is done about a diverging update", changes_result=False)
    run: Run = option(Run(), "how the run is executed", changes_result=False)


@dataclasses.dataclass(frozen=True)
class DetectEvaluate(TaskOptions):
    """The options of scoring a finished detector."""

    task: str = option("detect_evaluate", "name of the task")
    init_from: str = option("", "workdir of a detection run, or its folder best")
    data: ScoredData = ScoredData()
    evaluation: DetectLimits = DetectLimits()
    run: Run = option(Run(), "how the images are loaded", changes_result=False)
