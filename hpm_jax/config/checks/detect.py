"""Validates configs of object detection."""

from hpm_jax.config.checks.shared import (
    check_common,
    check_grid,
    check_relative,
    check_start,
    check_variant,
    check_width,
)
from hpm_jax.config.detect import Detect, DetectData, DetectEvaluate
from hpm_jax.errors import ConfigError

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


def check_detect(config: Detect) -> None:
    """Raises a `ConfigError` for an invalid detection config."""
    check_start(config)
    default = DetectData()
    for name in UNUSED:
        value = getattr(config.data, name)
        if value != getattr(default, name):
            raise ConfigError(
                f"config.data.{name} = {value!r} has no effect on detection, whose crops are of "
                "config.data.image_size and config.augment.scale: leave it out"
            )
    check_common(config)
    check_grid(config)
    check_variant(config)
    check_width(config, "")
    _check_encoder(config)
    _check_grid(config)
    _check_steps(config)


def check_detect_evaluate(config: DetectEvaluate) -> None:
    """Raises a `ConfigError` for an invalid config of scoring."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a detection run, as in "
            "--config.init_from=runs/bccd, or its folder best"
        )


def _check_encoder(config: Detect) -> None:
    model = config.model
    if model.tubelet != 1:
        raise ConfigError(
            f"config.model.tubelet = {model.tubelet}: detection is of images, and this encoder is "
            "of videos"
        )
    if model.rotary_base:
        raise ConfigError(
            f"config.model.rotary_base = {model.rotary_base:g}: windows of attention have no "
            "rotary positions yet: give an encoder without them"
        )
    check_relative(config)
    if model.global_blocks > model.depth:
        raise ConfigError(
            f"config.model.global_blocks = {model.global_blocks} is more than the "
            f"config.model.depth = {model.depth} blocks: lower it"
        )


def _check_grid(config: Detect) -> None:
    """The pyramid doubles, quadruples and halves the map of patches."""
    patch = config.model.patch_size
    if patch < 4 or patch & (patch - 1):
        raise ConfigError(
            f"config.model.patch_size = {patch}: the levels of a pyramid need a power of two, 4 at "
            "least, such as 16"
        )
    if any(side % (2 * patch) for side in config.data.image_size):
        raise ConfigError(
            f"config.data.image_size = {config.data.image_size}: the levels of a pyramid need "
            f"multiples of {2 * patch}, twice the patch size"
        )


def _check_steps(config: Detect) -> None:
    low, high = config.augment.scale
    if low > high:
        raise ConfigError(
            f"config.augment.scale = ({low:g}, {high:g}): expected the smaller one first, such as "
            f"({high:g}, {low:g})"
        )
    milestones = config.optimizer.milestones
    if list(milestones) != sorted(milestones):
        raise ConfigError(f"config.optimizer.milestones = {milestones}: expected rising numbers")
