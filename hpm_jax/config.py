"""From an ml_collections config to checked options, or to an error that says what to change.

A config file starts from `defaults()` and changes what it wants; `freeze` turns the result into the
dataclasses of `hpm_jax/options.py`, or names the nearest right key or value.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from hpm_jax.data.sources import SOURCES
from hpm_jax.losses import RANKING_LOSSES
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.models.layers import REMAT_POLICIES
from hpm_jax.options import Config, ConfigError, Model
from hpm_jax.options import defaults as defaults
from hpm_jax.targets import TARGETS


def parse_variant(text: str | None, choices: Iterable[str], **options: Any) -> dict[str, Any]:
    """What stands behind the colon of `--config configs/x.py:L,epochs=800`.

    Args:
        text: bare words and `key=value` pairs, with commas between.
        choices: the bare words that there are, values of the first option.
        options: the keys there are, with their defaults, whose types the values take.
    """
    chosen, first = dict(options), next(iter(options))
    for item in filter(None, (text or "").split(",")):
        key, value = item.split("=", 1) if "=" in item else (first, item)
        if key not in options:
            raise ConfigError(f"no variant {item!r}{nearest(key, options)}")
        if key == first:
            value = check_choice(key, value, choices)
        try:
            chosen[key] = type(options[key])(value)
        except ValueError:
            kind = type(options[key]).__name__
            raise ConfigError(f"variant {key}={value!r}: expected {kind}") from None
    return chosen


def freeze(config: Mapping[str, Any]) -> Config:
    """From a ConfigDict (or a dict read from config.json) to a checked `Config`.

    Raises:
        ConfigError: for an unknown key, a value of the wrong type, or one that cannot run.
    """
    frozen = _build(Config, config, "config")
    check(frozen)
    return frozen


def _build(kind: type, values: Mapping[str, Any], path: str) -> Any:
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"{path} = {values!r}: expected options, {_fields(kind)}")
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    built = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{path}.{key} does not exist{nearest(key, fields)}")
        built[key] = _convert(fields[key], value, f"{path}.{key}")
    return kind(**built)


def _convert(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, path)
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{path} = {value!r}: expected a tuple")
        value = tuple(value)
        if items[-1] is Ellipsis:
            items = items[:1] * len(value)
        if len(items) != len(value):
            raise ConfigError(f"{path} = {value!r}: expected {len(items)} values")
        return tuple(_convert(item, part, path) for item, part in zip(items, value, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{path} = {value!r}: expected {kind.__name__}")
    return value


def _fields(kind: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(kind))


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error message: the closest of the choices, or all of them."""
    choices = [str(choice) for choice in choices]
    close = difflib.get_close_matches(word, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}."


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """`value`, or an error that names the closest choice."""
    if value not in choices:
        raise ConfigError(f"{name} = {value!r} does not exist{nearest(value, choices)}")
    return value


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
