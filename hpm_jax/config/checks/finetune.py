"""Validates fine-tuning configs."""

from hpm_jax.config import Finetune
from hpm_jax.config.checks.shared import (
    check_common,
    check_grid,
    check_pool,
    check_start,
    check_variant,
    check_width,
)
from hpm_jax.data.rand_augment import parse_policy
from hpm_jax.errors import ConfigError


def check_finetune(config: Finetune) -> None:
    """Raises a `ConfigError` for an invalid fine-tuning config."""
    check_start(config)
    if config.augment.policy:
        parse_policy(config.augment.policy)
    check_common(config)
    _check_mixing(config)
    _check_color_jitter(config)
    _check_clips(config)
    check_grid(config)
    check_variant(config)
    check_pool(config, "model")
    _check_many_labels(config)
    check_width(config, "")
    names = [regularizer.name for regularizer in config.regularize.terms]
    for regularizer in config.regularize.terms:
        if names.count(regularizer.name) > 1:
            raise ConfigError(
                f"config.regularize.terms has {regularizer.name!r} twice: expected once"
            )
        regularizer.check(config)


def _check_many_labels(config: Finetune) -> None:
    """Checks that what assumes one class of an image is off where there may be several."""
    regularize = config.regularize
    if config.labels == "many" and (regularize.max_sup_start or regularize.max_sup_end):
        raise ConfigError(
            "config.labels = 'many' has no largest logit to suppress: set "
            "config.regularize.max_sup_start and max_sup_end to 0"
        )


def _check_mixing(config: Finetune) -> None:
    """Checks that the batch divides into groups and that CutMix can draw its boxes."""
    augment, batch_size = config.augment, config.optimizer.batch_size
    groups = augment.mix_groups
    if augment.mixes and batch_size % groups:
        lower = max(part for part in range(1, groups) if batch_size % part == 0)
        raise ConfigError(
            f"config.augment.mix_groups = {groups} does not divide config.optimizer.batch_size = "
            f"{batch_size} into equal groups: --config.augment.mix_groups={lower}, or another batch"
        )
    if augment.mixes and batch_size * config.data.clips == groups:
        raise ConfigError(
            f"config.augment.mix_groups = {groups} leaves one image in each group, and nothing to "
            "mix it with: lower it, or set config.augment.mixup and cutmix to 0"
        )
    if not augment.cutmix_minmax:
        return
    low, high = (*augment.cutmix_minmax, -1, -1)[:2]
    sides = config.data.image_size
    if len(augment.cutmix_minmax) != 2 or not 0 <= low < high <= 1:
        raise ConfigError(
            f"config.augment.cutmix_minmax = {augment.cutmix_minmax}: expected the smallest and "
            "the largest side of the box as shares of the image's, such as (0.2, 0.8)"
        )
    if any(int(side * low) >= int(side * high) for side in sides):
        raise ConfigError(
            f"config.augment.cutmix_minmax = {augment.cutmix_minmax} leaves no whole number of "
            f"pixels for a side of config.data.image_size = {sides}: set the two further apart"
        )


def _check_clips(config: Finetune) -> None:
    counted, clips = config.optimizer.counted_clips, config.data.clips
    if counted not in (1, clips):
        raise ConfigError(
            f"config.optimizer.counted_clips = {counted}: expected 1, or the {clips} of "
            "config.data.clips"
        )
    if config.model.keep_norm and config.model.pool != "mean":
        raise ConfigError(
            f"config.model.keep_norm = True keeps the norm after pooling, and config.model.pool = "
            f"{config.model.pool!r} has none there: --config.model.pool=mean, or keep_norm=False"
        )


def _check_color_jitter(config: Finetune) -> None:
    augment = config.augment
    if augment.color_jitter and augment.policy:
        raise ConfigError(
            f"config.augment.color_jitter = {augment.color_jitter} and config.augment.policy = "
            f"{augment.policy!r}: colours are jittered only without RandAugment, as in timm and "
            "MAE; set one of them to 0 or ''"
        )
