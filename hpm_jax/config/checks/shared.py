"""Checks that several tasks share: data, optimizer, grid and widths."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.sources import SOURCES
from hpm_jax.data.transforms import CROPS
from hpm_jax.errors import ConfigError, check_choice
from hpm_jax.models.layouts import DEFAULT_VARIANT, layout_of

LARGEST_EXAMPLE = 2**31  # bytes


def check_common(config: Any) -> None:
    """Checks what every training run has: data, a model, an optimizer."""
    check_data(config)
    check_warmup(config)
    check_learning_rate(config)
    optimizer = config.optimizer
    if optimizer.batch_size % optimizer.accumulation:
        raise ConfigError(
            f"config.optimizer.batch_size = {optimizer.batch_size} does not split into "
            f"config.optimizer.accumulation = {optimizer.accumulation} equal parts."
        )


def check_data(config: Any) -> None:
    """Checks source, crop, size in memory, value range and normalisation."""
    check_choices(config, {"data.source": SOURCES, "data.sampling": SAMPLINGS, "data.crop": CROPS})
    low, high = config.data.crop_scale
    if low > high:
        raise ConfigError(
            f"config.data.crop_scale = ({low}, {high}): expected 0 < low <= high <= 1"
        )
    low, high = config.data.crop_ratio
    if low > high:
        raise ConfigError(
            f"config.data.crop_ratio = ({low:g}, {high:g}): expected the smaller one first, such "
            f"as ({high:g}, {low:g})"
        )
    check_memory(config.data)
    check_value_range(config)
    for name in ("mean", "std"):
        values = getattr(config.data, name)
        if len(values) != config.data.channels:
            raise ConfigError(
                f"config.data.{name} = {values}: expected {config.data.channels} values, "
                "one a channel (config.data.channels)"
            )


def check_value_range(config: Any) -> None:
    """Checks that the two values are in order and that no augmentation needs 8-bit images."""
    found = config.data.value_range
    if found and (len(found) != 2 or not found[0] < found[1]):
        raise ConfigError(
            f"config.data.value_range = {found}: expected (low, high), such as (0, 65535), or () "
            "for 8-bit images"
        )
    augment = getattr(config, "augment", None)
    jittered = getattr(augment, "policy", "") or getattr(augment, "color_jitter", 0.0)
    if found and jittered:
        raise ConfigError(
            f"config.data.value_range = {found} gives float32 images, and RandAugment and colour "
            "jitter are made for 8-bit ones: --config.augment.policy='' and "
            "--config.augment.color_jitter=0"
        )


def check_memory(data: Any) -> None:
    """Checks that one loaded image or video fits into memory many times."""
    views = (
        math.prod(data.train_shape),
        math.prod(data.view_shape)
        * (data.test_crops * (data.test_clips if data.frames > 1 else 1)),
    )
    if max(views) > LARGEST_EXAMPLE:
        raise ConfigError(
            f"config.data.image_size = {data.image_size}, channels = {data.channels}, frames = "
            f"{data.frames}, clips = {data.clips}, test_clips = {data.test_clips}, test_crops = "
            f"{data.test_crops} make {max(views):,} bytes of each example, expected at most "
            f"{LARGEST_EXAMPLE:,}: lower them"
        )


def check_learning_rate(config: Any) -> None:
    """Checks that one of the two rates is given; the other is 0, or the base rate's default."""
    optimizer = config.optimizer
    base, absolute = optimizer.base_learning_rate, optimizer.absolute_learning_rate
    if not optimizer.learning_rate > 0:
        raise ConfigError(f"config.optimizer.base_learning_rate = {base}: expected more than 0")
    if optimizer.floor > optimizer.learning_rate:
        raise ConfigError(
            f"config.optimizer.floor = {optimizer.floor:g} is above the peak learning rate of "
            f"{optimizer.learning_rate:g}: lower it, or raise the learning rate"
        )
    if absolute and base not in (0.0, type(optimizer)().base_learning_rate):
        raise ConfigError(
            f"config.optimizer.absolute_learning_rate = {absolute:g} and "
            f"config.optimizer.base_learning_rate = {base:g} contradict each other: set one to 0"
        )


def check_warmup(config: Any) -> None:
    """Checks that the warm-up is shorter than the run."""
    optimizer = config.optimizer
    if optimizer.warmup_epochs >= optimizer.epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {optimizer.warmup_epochs:g} is not shorter "
            f"than the run of {optimizer.epochs} epochs: lower it, or train longer."
        )


def check_start(config: Any) -> None:
    """Checks that a task that needs a pre-trained encoder names one."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a pre-training run, as in "
            "--config.init_from=runs/hpm_b200, or a file of weights (docs/weights.md)."
        )


def check_grid(config: Any) -> None:
    """Checks that patches and tubelets divide the images and clips."""
    try:
        _ = config.grid
    except ValueError as error:
        raise ConfigError(
            f"config.data.frames = {config.data.frames}, config.data.image_size = "
            f"{config.data.image_size}, config.model.tubelet = {config.model.tubelet}, "
            f"config.model.patch_size = {config.model.patch_size}: {error}"
        ) from None
    layout = layout_of(config.model.layout)
    if config.grid[0] > 1 and "sincos" in (layout.positions, layout.classifier_positions):
        raise ConfigError(
            f"config.model.layout = {config.model.layout!r} has positions for one frame, and "
            f"{config.data.frames} frames make {config.grid[0]}: --config.model.layout=videomae "
            "or mae_st."
        )


def check_variant(config: Any) -> None:
    """Checks that the options of the encoder fit the layout, and each other."""
    model = config.model
    if model.layout != "mae":
        for name in ("cls_token", "encoder_positions", "rotary_base"):
            value, usual = getattr(model, name), getattr(DEFAULT_VARIANT, name)
            if value != usual:
                raise ConfigError(
                    f"config.model.{name} = {value!r} is for encoders of images: set it to "
                    f"{usual!r} in the layout {model.layout!r}, or use --config.model.layout=mae"
                )
    if model.encoder_positions == "none" and not model.rotary_base:
        raise ConfigError(
            "config.model.encoder_positions = 'none' without rotary positions leaves the encoder "
            "none at all: set config.model.rotary_base, such as 100, or encoder_positions=layout"
        )
    head = model.width // model.heads
    if model.rotary_base and (head % 4 or model.rotary_base < 1):
        raise ConfigError(
            f"config.model.rotary_base = {model.rotary_base:g} with heads of {head} values: "
            "expected a base of at least 1, and heads of a multiple of 4 values "
            "(config.model.width / config.model.heads)"
        )


def check_relative(config: Any) -> None:
    """Checks that learned relative positions can be computed, and learn."""
    model = config.model
    if model.relative_positions and model.attention not in ("xla", "auto"):
        raise ConfigError(
            f"config.model.attention = {model.attention!r} has no relative positions, and "
            "config.model.relative_positions = True: set attention to 'xla'"
        )
    if model.relative_positions and model.frozen:
        raise ConfigError(
            "config.model.frozen = True learns nothing in the encoder, and "
            "config.model.relative_positions = True adds parameters to it that start at zero: set "
            "one of them to False"
        )


def check_pool(config: Any, section: str) -> None:
    """Checks that a pooling of cls tokens has one."""
    layout = config.model.layout
    pool = getattr(config, section).pool
    if pool != "mean" and not layout_of(layout, config.model).cls_token:
        raise ConfigError(
            f"config.{section}.pool = {pool!r}, and the layout {layout!r} has no cls token"
            f"{' with config.model.cls_token = False' if not config.model.cls_token else ''}: "
            f"--config.{section}.pool=mean"
        )


def check_width(config: Any, part: str) -> None:
    """Checks that heads and positions divide a width; `part` is "" or "decoder_"."""
    width = getattr(config.model, f"{part}width")
    heads = getattr(config.model, f"{part}heads")
    if width % heads or width % 4:
        raise ConfigError(
            f"config.model.{part}width = {width}: expected a multiple of 4, for the positions, "
            f"and of config.model.{part}heads = {heads}"
        )


def check_choices(config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    """Checks that the options `choices` names have one of its values."""
    for name, there in choices.items():
        check_choice(f"config.{name}", _get(config, name), there)


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
