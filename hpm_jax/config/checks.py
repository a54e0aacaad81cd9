"""What cannot run is said before anything is loaded or compiled, in one sentence."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpm_jax.config import Config, Evaluate, Finetune, Probe, Report
from hpm_jax.data.rand_augment import parse_policy
from hpm_jax.data.sources import SOURCES
from hpm_jax.data.transforms import CROPS
from hpm_jax.errors import ConfigError, check_choice
from hpm_jax.losses import RANKING_LOSSES
from hpm_jax.losses.pairs import PAIRS
from hpm_jax.masking.strategies import STRATEGIES
from hpm_jax.masking.units import UNITS
from hpm_jax.models.attention import ATTENTIONS
from hpm_jax.models.classifier import POOLS
from hpm_jax.models.layers import REMAT_POLICIES
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.targets import TARGETS


def check_pretrain(config: Config) -> None:
    """Raises a `ConfigError` for a pre-training run that cannot be."""
    _check_choices(
        config,
        {
            "weights": ("student", "teacher"),
            "target": TARGETS,
            "target_frames": ("all", "one"),
            "mask.strategy": STRATEGIES,
            "mask.unit": UNITS,
            "mask.schedule": ("epoch", "step"),
            "ranking.loss": (*RANKING_LOSSES, "none"),
            "ranking.pairs": PAIRS,
            "evaluation.pool": POOLS,
        },
    )
    evaluation = ("bank_images", "test_images", "neighbors", "temperature", "batch_size")
    _check_positive(
        config,
        {
            "evaluation": evaluation,
            "mask": ("views",),
            "ranking": ("distances",),
            "teacher": ("frame_stride", "every_steps"),
        },
    )
    _check_shares(config, "mask", ("hard_start", "hard_end"))
    _check_shares(config, "teacher", ("decay_start", "decay_end"))
    _check_common(config)
    _check_method(config)


def check_finetune(config: Finetune) -> None:
    """Raises a `ConfigError` for a fine-tuning run that cannot be."""
    _check_start(config)
    _check_choices(config, {"model.pool": POOLS})
    _check_positive(config, {"evaluation": ("batch_size",), "optimizer": ("layer_decay",)})
    _check_shares(config, "optimizer", ("layer_decay",))
    shares = ("erase", "mix_probability", "switch_probability", "label_smoothing")
    _check_shares(config, "augment", shares)
    for name, value in {
        "model.drop_path": config.model.drop_path,
        "model.head_dropout": config.model.head_dropout,
        "optimizer.average": config.optimizer.average,
        "regularize.mask_sub": config.regularize.mask_sub,
    }.items():
        if not 0 <= value < 1:
            raise ConfigError(f"config.{name} = {value}: expected a share from 0, below 1")
    if config.augment.policy:
        parse_policy(config.augment.policy)
    _check_common(config)
    _check_grid(config)
    _check_pool(config, "model")
    _check_width(config, "")


def check_report(config: Report) -> None:
    """Raises a `ConfigError` for a report that cannot be made."""
    _check_start(config)
    if config.features_file and not config.features_file.endswith(".npz"):
        raise ConfigError(f"config.features_file = {config.features_file!r}: expected FILE.npz")
    for name in config.probes.names:
        check_choice("config.probes.names", name, PROBES)
    _check_positive(
        config,
        {
            "features": ("batch_size",),
            "probes": (
                "temperature",
                "draws",
                "epochs",
                "attentive_epochs",
                "attentive_heads",
                "batch_size",
            ),
        },
    )
    for option in ("neighbors", "shots"):
        for value in getattr(config.probes, option):
            if value < 1:
                raise ConfigError(f"config.probes.{option} has {value}: expected more than 0")
    _check_data(config)


def check_probe(config: Probe) -> None:
    """Raises a `ConfigError` for a probe that cannot be trained."""
    _check_start(config)
    _check_choices(
        config, {"head": ("linear", "attentive"), "optimizer.kind": ("sgd", "lars", "adamw")}
    )
    _check_positive(
        config,
        {
            "features": ("batch_size",),
            "optimizer": ("epochs", "batch_size"),
            "evaluation": ("batch_size",),
            "run": RUN,
        },
    )
    if not (config.optimizer.base_learning_rates and config.optimizer.weight_decays):
        raise ConfigError(
            "config.optimizer.base_learning_rates and weight_decays need one value or more each"
        )
    if not 0 <= config.choose_on < 1:
        raise ConfigError(
            f"config.choose_on = {config.choose_on}: expected a share from 0, below 1"
        )
    optimizer = config.optimizer
    settings = len(optimizer.base_learning_rates) * len(optimizer.weight_decays)
    if not config.choose_on and settings > 1:
        raise ConfigError(
            f"config.choose_on = 0 leaves no images to choose one of {settings} settings by: give "
            "one base_learning_rates and one weight_decays, or hold out a share such as 0.02"
        )
    _check_data(config)
    _check_warmup(config)


def check_evaluate(config: Evaluate) -> None:
    """Raises a `ConfigError` for a classifier that cannot be scored."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a fine-tuning run, as in "
            "--config.init_from=runs/hpm_b200_finetuned/best, or a file of weights with a head."
        )
    _check_choices(
        config,
        {
            "weights": ("student", "teacher"),
            "split": ("any", "test"),
            "dtype": DTYPES,
            "attention": ATTENTIONS,
            "data.source": SOURCES,
        },
    )
    _check_positive(config, {"evaluation": ("batch_size",)})
    _check_data(config)


def _check_start(config: Any) -> None:
    """What starts from a pre-trained encoder names it."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a pre-training run, as in "
            "--config.init_from=runs/hpm_b200, or a file of weights (docs/weights.md)."
        )
    _check_choices(config, {"weights": ("student", "teacher", "random")})
    if "features" in vars(config):
        choices = {"features.pool": ("cls", "mean", "both"), "features.dtype": DTYPES}
        _check_choices(config, choices | {"data.source": SOURCES})


CHECKS: dict[str, Callable[[Any], None]] = {
    "pretrain": check_pretrain,
    "finetune": check_finetune,
    "report": check_report,
    "probe": check_probe,
    "evaluate": check_evaluate,
}
PROBES = ("knn", "few_shot", "linear", "logistic", "attentive")
DTYPES = ("float32", "bfloat16")
CLIPS = ("frames", "frame_stride", "clips", "test_clips", "test_crops")
RUN = ("log_every_steps", "checkpoint_every_epochs", "keep_checkpoints", "prefetch", "fsdp")


def _check_choices(config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    for name, there in choices.items():
        check_choice(f"config.{name}", _get(config, name), there)


def _check_positive(config: Any, names: Mapping[str, Iterable[str]]) -> None:
    for section, options in names.items():
        for option in options:
            value = getattr(getattr(config, section), option)
            if not value > 0:
                raise ConfigError(f"config.{section}.{option} = {value}: expected more than 0")


def _check_shares(config: Any, section: str, options: Iterable[str]) -> None:
    for option in options:
        value = getattr(getattr(config, section), option)
        if not 0 <= value <= 1:
            raise ConfigError(f"config.{section}.{option} = {value}: expected a share from 0 to 1")


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _check_common(config: Any) -> None:
    """What every training run has: data, a model, an optimizer."""
    _check_choices(
        config,
        {
            "data.source": SOURCES,
            "model.dtype": DTYPES,
            "model.remat": REMAT_POLICIES,
            "model.attention": ATTENTIONS,
            "model.layout": LAYOUTS,
        },
    )
    sizes = [field.name for field in dataclasses.fields(config.model) if field.type is int]
    sizes.remove("unroll")  # 0 unrolls all
    _check_positive(
        config,
        {
            "model": sizes,
            "optimizer": ("epochs", "batch_size", "accumulation"),
            "run": RUN,
        },
    )
    _check_data(config)
    _check_warmup(config)
    _check_learning_rate(config)
    optimizer = config.optimizer
    if optimizer.batch_size % optimizer.accumulation:
        raise ConfigError(
            f"config.optimizer.batch_size = {optimizer.batch_size} does not split into "
            f"config.optimizer.accumulation = {optimizer.accumulation} equal parts."
        )


def _check_learning_rate(config: Any) -> None:
    """One of the two rates is given; the other is 0, or the base rate at its default."""
    optimizer = config.optimizer
    base, absolute = optimizer.base_learning_rate, optimizer.absolute_learning_rate
    if base < 0 or absolute < 0 or not optimizer.learning_rate > 0:
        name, value = ("absolute", absolute) if absolute < 0 else ("base", base)
        raise ConfigError(f"config.optimizer.{name}_learning_rate = {value}: expected more than 0")
    if absolute and base not in (0.0, type(optimizer)().base_learning_rate):
        raise ConfigError(
            f"config.optimizer.absolute_learning_rate = {absolute:g} and "
            f"config.optimizer.base_learning_rate = {base:g} contradict each other: set one to 0"
        )


def _check_warmup(config: Any) -> None:
    optimizer = config.optimizer
    if optimizer.warmup_epochs >= optimizer.epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {optimizer.warmup_epochs:g} is not shorter "
            f"than the run of {optimizer.epochs} epochs: lower it, or train longer."
        )


def _check_data(config: Any) -> None:
    _check_positive(config, {"data": ("channels", "synthetic_images", "test_crop", *CLIPS)})
    _check_choices(config, {"data.sampling": ("dense", "segments"), "data.crop": CROPS})
    _check_shares(config, "data", ("holdout", "flip", "max_broken"))
    low, high = config.data.crop_scale
    if not 0 < low <= high <= 1:
        raise ConfigError(
            f"config.data.crop_scale = ({low}, {high}): expected 0 < low <= high <= 1"
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
    _check_grid(config)
    _check_pool(config, "evaluation")
    _check_teacher(config)
    try:
        hidden = config.hidden
    except ValueError as error:
        raise ConfigError(f"config.mask.ratio = {config.mask.ratio}: {error}") from None
    for part in ("", "decoder_"):
        _check_width(config, part)
    tubes = config.ranking.pairs == "tubes"
    if config.ranking.loss != "none" and (config.hidden_units if tubes else hidden) < 2:
        raise ConfigError(
            f"config.mask.ratio = {config.mask.ratio} hides 1 {'tube' if tubes else 'patch'}, and "
            "a ranking needs two: raise the ratio, or set config.ranking.loss=none."
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


def _check_grid(config: Any) -> None:
    try:
        _ = config.grid
    except ValueError as error:
        raise ConfigError(
            f"config.data.frames = {config.data.frames}, config.data.image_size = "
            f"{config.data.image_size}, config.model.tubelet = {config.model.tubelet}, "
            f"config.model.patch_size = {config.model.patch_size}: {error}"
        ) from None
    layout = LAYOUTS[config.model.layout]
    if config.grid[0] > 1 and "sincos" in (layout.positions, layout.classifier_positions):
        raise ConfigError(
            f"config.model.layout = {config.model.layout!r} has positions for one frame, and "
            f"{config.data.frames} frames make {config.grid[0]}: --config.model.layout=videomae "
            "or mae_st."
        )


def _check_pool(config: Any, section: str) -> None:
    layout = config.model.layout
    if getattr(config, section).pool == "cls" and not LAYOUTS[layout].cls_token:
        raise ConfigError(
            f"config.{section}.pool = 'cls', and the layout {layout!r} has no cls token: "
            f"--config.{section}.pool=mean"
        )


def _check_teacher(config: Config) -> None:
    """What a teacher that sees or looks less needs."""
    frames, stride = config.grid[0], config.teacher.frame_stride
    if frames % stride:
        raise ConfigError(
            f"config.teacher.frame_stride = {stride} does not divide the {frames} frames of the "
            "grid (config.data.frames / config.model.tubelet)"
        )
    if config.ranking.pairs == "tubes" and config.mask.unit != "tube":
        raise ConfigError(
            "config.ranking.pairs = 'tubes' ranks tubes, and config.mask.unit = "
            f"{config.mask.unit!r} hides patches one by one: set it to tube, or rank all or "
            "sampled pairs."
        )


def _check_width(config: Any, part: str) -> None:
    width = getattr(config.model, f"{part}width")
    heads = getattr(config.model, f"{part}heads")
    if width % heads or width % 4:
        raise ConfigError(
            f"config.model.{part}width = {width}: expected a multiple of 4, for the positions, "
            f"and of config.model.{part}heads = {heads}"
        )
