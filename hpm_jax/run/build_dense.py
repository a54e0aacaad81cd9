"""Builds the parts of a run of segmentation or detection from a config."""

from collections.abc import Callable

import optax
from jax import Array

from hpm_jax import random
from hpm_jax.config import Detect, Segment
from hpm_jax.convert.assign import overlay
from hpm_jax.models import Detector, Segmenter
from hpm_jax.models.stack import Gather, as_they_are
from hpm_jax.run.build import build_tokenizer, encoder_arguments
from hpm_jax.step.detect_step import DetectRecipe
from hpm_jax.step.segment_step import SegmentRecipe
from hpm_jax.step.state import Start, TrainState, fresh_state, init_params, init_variables


def build_segmenter(config: Segment, classes: int, gather: Gather = as_they_are) -> Segmenter:
    """Builds the segmenter; `gather` as in `build_model`."""
    model = config.model
    return Segmenter(
        **encoder_arguments(config, gather),
        classes=classes,
        decoder=config.decoder,
        relative=model.relative_positions,
        frozen=model.frozen,
        raw_pixels=model.raw_pixels,
        head_std=model.head_std,
    )


def build_segment_init(
    model: Segmenter, optimizer: optax.GradientTransformation
) -> Callable[[Array, Start], TrainState]:
    """Builds `(root key, start) -> state` of segmentation, as `build_init` of pre-training."""

    def init(root: Array, start: Start) -> TrainState:
        variables = init_variables(model, random.stream(root, "init", 0))
        params = overlay(variables["params"], start.get("params", {}))
        return fresh_state(params, optimizer).replace(plugs=variables.get("batch_stats"))

    return init


def build_segment_recipe(config: Segment) -> SegmentRecipe:
    """Builds the plugs of the segmentation step."""
    model = config.model
    return SegmentRecipe(
        build_tokenizer(config),
        0.0 if model.frozen or model.raw_pixels else model.drop_path,
        config.optimizer.accumulation,
        config.regularize.mask_sup,
        config.regularize.similarity,
    )


def build_detector(config: Detect, classes: int, gather: Gather = as_they_are) -> Detector:
    """Builds the detector; `gather` as in `build_model`."""
    model = config.model
    return Detector(
        **encoder_arguments(config, gather),
        classes=classes,
        patch=model.patch_size,
        window=model.window,
        global_blocks=model.global_blocks,
        relative=model.relative_positions,
        channels=model.channels,
        box_head=model.box_head,
        box_width=model.box_width,
        masks=model.masks,
        anchor_scale=model.anchor_scale,
        frozen=model.frozen,
    )


def build_detect_init(
    model: Detector, optimizer: optax.GradientTransformation
) -> Callable[[Array, Start], TrainState]:
    """Builds `(root key, start) -> state` of detection, as `build_init` of pre-training."""

    def init(root: Array, start: Start) -> TrainState:
        params = init_params(model, random.stream(root, "init", 0))
        return fresh_state(overlay(params, start.get("params", {})), optimizer)

    return init


def build_detect_recipe(config: Detect) -> DetectRecipe:
    """Builds the plugs of the detection step."""
    model = config.model
    return DetectRecipe(
        build_tokenizer(config),
        model.level_proposals,
        model.proposals,
        model.sampled_anchors,
        model.sampled_proposals,
        0.0 if model.frozen else model.drop_path,
        config.optimizer.accumulation,
    )
