"""What a config may not say: every impossible value, and how to mend it."""

import dataclasses

from hpm_jax.config import Config, ConfigError, Model, check_choice
from hpm_jax.data.sources import SOURCES
from hpm_jax.losses import RANKING_LOSSES
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.models.layers import REMAT_POLICIES
from hpm_jax.targets import TARGETS


def check(config: Config) -> None:
    """Raises a `ConfigError` for what cannot run, before anything is loaded or compiled."""
    check_choice("config.task", config.task, ("pretrain",))
    check_choice("config.target", config.target, TARGETS)
    check_choice("config.data.source", config.data.source, SOURCES)
    check_choice("config.mask.strategy", config.mask.strategy, STRATEGIES)
    check_choice("config.mask.schedule", config.mask.schedule, ("epoch", "step"))
    check_choice("config.ranking.loss", config.ranking.loss, (*RANKING_LOSSES, "none"))
    check_choice("config.model.dtype", config.model.dtype, ("float32", "bfloat16"))
    check_choice("config.model.remat", config.model.remat, REMAT_POLICIES)
    check_choice("config.evaluation.pool", config.evaluation.pool, ("cls", "mean"))
    _check_numbers(config)
    _check_method(config)


def _check_numbers(config: Config) -> None:
    """Values that are impossible by themselves."""
    positive = {
        "model": [field.name for field in dataclasses.fields(Model) if field.type is int],
        "optimizer": ("epochs", "batch_size", "base_learning_rate", "accumulation"),
        "data": ("channels", "synthetic_images", "test_crop"),
        "evaluation": ("bank_images", "test_images", "neighbors", "temperature", "batch_size"),
        "run": ("log_every_steps", "checkpoint_every_epochs", "keep_checkpoints", "prefetch"),
    }
    for section, names in positive.items():
        for name in names:
            value = getattr(getattr(config, section), name)
            if not value > 0 and name != "unroll":  # 0 unrolls all
                raise ConfigError(f"config.{section}.{name} = {value}: expected more than 0")
    shares = {
        "data.holdout": config.data.holdout,
        "data.flip": config.data.flip,
        "data.max_broken": config.data.max_broken,
        "mask.hard_start": config.mask.hard_start,
        "mask.hard_end": config.mask.hard_end,
        "teacher.decay_start": config.teacher.decay_start,
        "teacher.decay_end": config.teacher.decay_end,
    }
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"config.{name} = {value}: expected a share from 0 to 1")
    low, high = config.data.crop_scale
    if not 0 < low <= high <= 1:
        raise ConfigError(
            f"config.data.crop_scale = ({low}, {high}): expected 0 < low <= high <= 1"
        )
    if config.optimizer.warmup_epochs >= config.optimizer.epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {config.optimizer.warmup_epochs:g} is not shorter "
            f"than the run of {config.optimizer.epochs} epochs: lower it, or train longer."
        )
    if config.optimizer.batch_size % config.optimizer.accumulation:
        raise ConfigError(
            f"config.optimizer.batch_size = {config.optimizer.batch_size} does not split into "
            f"config.optimizer.accumulation = {config.optimizer.accumulation} equal parts."
        )
    for name in ("mean", "std"):
        values = getattr(config.data, name)
        if len(values) != config.data.channels:
            raise ConfigError(
                f"config.data.{name} = {values}: expected {config.data.channels} values, "
                "one a channel (config.data.channels)"
            )


def _check_method(config: Config) -> None:
    """Options that are impossible together."""
    try:
        hidden = config.hidden
    except ValueError as error:
        raise ConfigError(
            f"config.data.image_size = {config.data.image_size}, config.model.patch_size = "
            f"{config.model.patch_size}, config.mask.ratio = {config.mask.ratio}: {error}"
        ) from None
    for part in ("", "decoder_"):
        width = getattr(config.model, f"{part}width")
        heads = getattr(config.model, f"{part}heads")
        if width % heads or width % 4:
            raise ConfigError(
                f"config.model.{part}width = {width}: expected a multiple of 4, for the positions, "
                f"and of config.model.{part}heads = {heads}"
            )
    if config.ranking.loss != "none" and hidden < 2:
        raise ConfigError(
            f"config.mask.ratio = {config.mask.ratio} hides {hidden} patch, and a ranking needs "
            "two: raise the ratio, or set config.ranking.loss=none."
        )
    if STRATEGIES[config.mask.strategy].asks_teacher:
        if config.ranking.loss == "none":
            raise ConfigError(
                f"config.mask.strategy = {config.mask.strategy!r} needs a loss predictor, and "
                "config.ranking.loss = 'none' builds none: set it to relative, or mask at random."
            )
        if not config.teacher.keep:
            raise ConfigError(
                f"config.mask.strategy = {config.mask.strategy!r} asks the teacher, and "
                "config.teacher.keep is False: set it to True, or mask at random."
            )
