"""Validates configs of semantic segmentation."""

from typing import Any

from hpm_jax.config.checks.shared import (
    check_common,
    check_data,
    check_grid,
    check_relative,
    check_start,
    check_variant,
    check_width,
)
from hpm_jax.config.segment import Segment, SegmentData, SegmentEvaluate, SegmentProbe
from hpm_jax.errors import ConfigError, check_choice

# options of other tasks, which would be without effect
UNUSED = (
    "crop",
    "crop_scale",
    "crop_ratio",
    "test_crop",
    "frames",
    "clips",
    "test_clips",
    "test_crops",
)
PROBES = ("logistic", "knn")


def check_segment(config: Segment) -> None:
    """Raises a `ConfigError` for an invalid segmentation config."""
    check_start(config)
    _check_unused(config)
    check_common(config)
    check_grid(config)
    check_variant(config)
    check_width(config, "")
    _check_images(config)
    _check_augment(config)
    _check_raw_pixels(config)
    check_relative(config)
    config.decoder.check(config)
    check_scales(config)


def check_segment_evaluate(config: SegmentEvaluate) -> None:
    """Raises a `ConfigError` for an invalid config of scoring."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a segmentation run, as in "
            "--config.init_from=runs/camvid, or its folder best"
        )
    check_scales(config)


def check_segment_probe(config: SegmentProbe) -> None:
    """Raises a `ConfigError` for an invalid config of probes."""
    check_start(config)
    _check_unused(config)
    check_data(config)
    _check_classes(config)
    check_scales(config)
    if config.features.block == 0:
        raise ConfigError("config.features.block = 0: blocks count from 1, or from the end with -1")
    names = config.probes.names
    for name in names:
        check_choice("config.probes.names", name, PROBES)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"config.probes.names = {names}: give logistic, knn or both")
    if "logistic" in names and not config.probes.penalties:
        raise ConfigError(
            "config.probes.penalties = (): give one number or more, or leave logistic out"
        )


def check_scales(config: Any) -> None:
    """Checks that the test images are seen at some size."""
    if not config.evaluation.scales:
        raise ConfigError("config.evaluation.scales = (): give one factor or more, such as (1.0,)")


def _check_unused(config: Segment | SegmentProbe) -> None:
    crops = "config.data.image_size, config.augment.scale and config.augment.max_share"
    check_unused(config.data, SegmentData(), f"segmentation, whose crops are of {crops}")


def check_unused(data: Any, default: Any, task: str) -> None:
    """Checks that options of other tasks are at their defaults."""
    for name in UNUSED:
        value = getattr(data, name)
        if value != getattr(default, name):
            raise ConfigError(
                f"config.data.{name} = {value!r} has no effect on {task}: leave it out"
            )


def _check_images(config: Segment) -> None:
    if config.model.tubelet != 1:
        raise ConfigError(
            f"config.model.tubelet = {config.model.tubelet}: segmentation is of images, and this "
            "encoder is of videos"
        )
    _check_classes(config)


def _check_classes(config: Segment | SegmentProbe) -> None:
    if config.data.classes == 1:
        raise ConfigError("config.data.classes = 1: expected two classes or more, or 0")


def _check_augment(config: Segment) -> None:
    low, high = config.augment.scale
    if low > high:
        raise ConfigError(
            f"config.augment.scale = ({low:g}, {high:g}): expected the smaller one first, such as "
            f"({high:g}, {low:g})"
        )
    data = config.data
    if config.augment.photometric and (data.value_range or data.channels not in (1, 3)):
        raise ConfigError(
            f"config.augment.photometric = True changes 8-bit images of 1 or 3 channels, and "
            f"config.data.channels = {data.channels}, value_range = {data.value_range}: "
            "--config.augment.photometric=False"
        )


def _check_raw_pixels(config: Segment) -> None:
    model = config.model
    for name in ("frozen", "relative_positions"):
        if model.raw_pixels and getattr(model, name):
            raise ConfigError(
                f"config.model.raw_pixels = True has no encoder, and config.model.{name} = True is "
                "about one: set one of them to False"
            )
