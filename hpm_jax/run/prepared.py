"""The sharded step of a training config, before it is compiled: for plans and benchmarks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.config import Config, ConfigError, Detect, Segment
from hpm_jax.detection.matching import most_positive
from hpm_jax.models.flops import detector_flops, segmenter_flops
from hpm_jax.run.build import build_flops, build_optimizer, build_sharded_step
from hpm_jax.run.build_dense import (
    build_detect_init,
    build_detect_recipe,
    build_detector,
    build_segment_init,
    build_segment_recipe,
    build_segmenter,
)
from hpm_jax.run.devices import Devices, check_batch
from hpm_jax.step.detect_step import PROPOSAL_SHARE, make_detect_step
from hpm_jax.step.optimizer import encoder_rates
from hpm_jax.step.schedules import (
    DetectTimetable,
    PretrainTimetable,
    SegmentTimetable,
    Timetable,
)
from hpm_jax.step.segment_step import learning_rates, make_segment_step
from hpm_jax.step.state import Start, TrainState, abstract_state, param_shapes
from hpm_jax.tasks.detect import batch_shapes

CLASSES = 80  # of a detector that has read no data: COCO's


class Prepared(NamedTuple):
    """A step and what it takes; the devices need not exist."""

    init: Callable[[Any, Start], TrainState]  # to be jitted
    start: Start  # its second argument
    state: TrainState  # shapes, dtypes and shardings
    inputs: dict[str, jax.ShapeDtypeStruct]  # of a global batch: images, and labels if any
    step: Any  # jitted: (state, *inputs, key, schedule) -> (state, metrics)
    flops: float  # of one image
    timetable: Callable[[int], Timetable]  # of a number of training images


def prepare(config: Any, devices: Devices) -> Prepared:
    """Builds the step of a config of pre-training, segmentation or detection.

    Raises:
        ConfigError: for another task, or if the batch does not divide over the devices.
    """
    if config.task not in PREPARED:
        raise ConfigError(
            f"config.task = {config.task!r} has no step that is compiled ahead: expected "
            f"{' or '.join(PREPARED)}, as in --config configs/hpm_in1k.py:L"
        )
    return PREPARED[config.task](config, devices)


def of_pretraining(config: Config, devices: Devices) -> Prepared:
    """Prepares the step of pre-training."""
    parts = build_sharded_step(config, devices)

    def timetable(images: int) -> Timetable:
        return PretrainTimetable(config, images, config.hidden_units)

    flops = build_flops(config).total
    return Prepared(
        parts.init, parts.start, parts.state, parts.inputs, parts.step, flops, timetable
    )


def of_segmentation(config: Segment, devices: Devices) -> Prepared:
    """Prepares the step of segmentation; the weights that it starts from are not read."""
    check_batch(config, devices)
    model = build_segmenter(config, known_classes(config), devices.gather)
    optimizer = build_optimizer(config)
    init = build_segment_init(model, optimizer)
    state = abstract_state(init, jax.random.key(0), Start(), place=devices.shardings)
    rates = learning_rates(param_shapes(model), model, config.optimizer.layer_decay)
    recipe = build_segment_recipe(config)
    step = devices.jit_step(make_segment_step(model, recipe, optimizer, rates), state)
    batch, data = config.optimizer.batch_size, config.data
    shapes = {
        "image": (data.train_shape, data.pixel_dtype),
        "label_map": (data.image_size, np.dtype(np.int16)),
    }
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=devices.batch)
        for name, (shape, dtype) in shapes.items()
    }

    def timetable(images: int) -> Timetable:
        return SegmentTimetable(config, images)

    flops = segmenter_flops(model, recipe.passes)
    return Prepared(init, Start(), state, inputs, step, flops, timetable)


def of_detection(config: Detect, devices: Devices) -> Prepared:
    """Prepares the step of detection, for COCO's 80 classes; no weights are read."""
    check_batch(config, devices)
    model, optimizer = build_detector(config, CLASSES, devices.gather), build_optimizer(config)
    init, recipe = build_detect_init(model, optimizer), build_detect_recipe(config)
    state = abstract_state(init, jax.random.key(0), Start(), place=devices.shardings)
    rates = encoder_rates(state.params, config.optimizer.layer_decay, model.frozen)
    step = devices.jit_step(make_detect_step(model, recipe, optimizer, rates), state)
    inputs = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.batch)
        for name, x in batch_shapes(config).items()
    }
    sampled = recipe.sampled_proposals
    flops = detector_flops(model, sampled, most_positive(sampled, PROPOSAL_SHARE))

    def timetable(images: int) -> Timetable:
        return DetectTimetable(config, images)

    return Prepared(init, Start(), state, inputs, step, flops, timetable)


def known_classes(config: Segment) -> int:
    """Returns `config.data.classes`, which has to be given where no data is read.

    Raises:
        ConfigError: if it is 0.
    """
    if not config.data.classes:
        raise ConfigError(
            "config.data.classes = 0 takes the number of classes from the data, which is not read "
            "here: --config.data.classes=150"
        )
    return config.data.classes


PREPARED: dict[str, Callable[[Any, Devices], Prepared]] = {
    "pretrain": of_pretraining,
    "segment": of_segmentation,
    "detect": of_detection,
}
