"""What cannot run is said before anything is loaded or compiled, in one sentence."""

from collections.abc import Iterable, Mapping
from typing import Any

from hpm_jax.config import Compare, Config, Evaluate, Finetune, Probe, Report
from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.rand_augment import parse_policy
from hpm_jax.data.sources import SOURCES
from hpm_jax.data.transforms import CROPS
from hpm_jax.errors import ConfigError, check_choice
from hpm_jax.models.layouts import LAYOUTS


def check_pretrain(config: Config) -> None:
    """Raises a `ConfigError` for a pre-training run that cannot be."""
    _check_common(config)
    _check_method(config)


def check_finetune(config: Finetune) -> None:
    """Raises a `ConfigError` for a fine-tuning run that cannot be."""
    _check_start(config)
    if config.augment.policy:
        parse_policy(config.augment.policy)
    _check_common(config)
    _check_mixing(config)
    _check_color_jitter(config)
    _check_clips(config)
    _check_grid(config)
    _check_pool(config, "model")
    _check_width(config, "")


def _check_mixing(config: Finetune) -> None:
    """Groups that a batch can be cut into, and boxes that CutMix can draw."""
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


def check_report(config: Report) -> None:
    """Raises a `ConfigError` for a report that cannot be made."""
    _check_start(config)
    if config.features_file and not config.features_file.endswith(".npz"):
        raise ConfigError(f"config.features_file = {config.features_file!r}: expected FILE.npz")
    for name in config.probes.names:
        check_choice("config.probes.names", name, PROBES)
    _check_data(config)


def check_probe(config: Probe) -> None:
    """Raises a `ConfigError` for a probe that cannot be trained."""
    _check_start(config)
    if not (config.optimizer.base_learning_rates and config.optimizer.weight_decays):
        raise ConfigError(
            "config.optimizer.base_learning_rates and weight_decays need one value or more each"
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
    _check_data(config)


def _check_start(config: Any) -> None:
    """What starts from a pre-trained encoder names it."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a pre-training run, as in "
            "--config.init_from=runs/hpm_b200, or a file of weights (docs/weights.md)."
        )


def check_compare(config: Compare) -> None:
    """Raises a `ConfigError` for a comparison that cannot be."""
    from hpm_jax.compare.arms import arm_configs, parse_contrasts

    configs = arm_configs(config)
    if not configs:
        raise ConfigError("config.arms is empty: name what each arm changes of config.base")
    parse_contrasts(config.contrasts, configs)
    for name in config.only:
        check_choice("config.only", name, configs)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(
            f"config.seeds = {config.seeds}: expected different numbers, at least one"
        )
    if config.primary not in config.measures:
        raise ConfigError(
            f"config.primary = {config.primary!r} is not measured: expected one of "
            f"config.measures = {config.measures}"
        )


PROBES = ("baselines", "knn", "few_shot", "linear", "logistic", "attentive")


def _check_choices(config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    for name, there in choices.items():
        check_choice(f"config.{name}", _get(config, name), there)


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _check_common(config: Any) -> None:
    """What every training run has: data, a model, an optimizer."""
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
    if not optimizer.learning_rate > 0:
        raise ConfigError(f"config.optimizer.base_learning_rate = {base}: expected more than 0")
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
    _check_choices(config, {"data.source": SOURCES, "data.sampling": SAMPLINGS, "data.crop": CROPS})
    low, high = config.data.crop_scale
    if low > high:
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
    for name, ratio in (("ratio", config.mask.ratio), ("ratio_end", config.mask.ratio_end)):
        try:
            if ratio:
                config.unit.hidden(ratio)
        except ValueError as error:
            raise ConfigError(f"config.mask.{name} = {ratio}: {error}") from None
    for part in ("", "decoder_"):
        _check_width(config, part)
    frames, stride = config.grid[0], config.teacher.frame_stride
    if frames % stride:
        raise ConfigError(
            f"config.teacher = {str(config.teacher)!r}: frame_stride = {stride} does not divide "
            f"the {frames} frames of the grid (config.data.frames / config.model.tubelet)"
        )
    _check_terms(config)
    _check_strategy(config)


def _check_terms(config: Config) -> None:
    """Each term once, and what it asks of the rest."""
    names = [term.name for term in config.terms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"config.losses has {name!r} twice: give one of them the weight")
    if not any(term.weight for term in config.terms):
        raise ConfigError("config.losses: every weight is 0, so there is nothing to learn")
    predictors = [term.name for term in config.terms if term.predicts_loss]
    if len(predictors) > 1:
        raise ConfigError(
            f"config.losses has {' and '.join(predictors)}, which both teach the loss predictor: "
            "choose one"
        )
    for plug in (config.mask.strategy, config.target, config.objective, *config.terms):
        plug.check(config)


def _check_strategy(config: Config) -> None:
    """What the mask strategy reads has to be there."""
    strategy, name = config.mask.strategy, str(config.mask.strategy)
    if not strategy.reads:
        return
    if "predicted_loss" in strategy.reads and not any(x.predicts_loss for x in config.terms):
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads predicted losses, and no term of "
            f"config.losses = {tuple(map(str, config.losses))} teaches a loss predictor: "
            "--config.losses=\"('ranking',)\", or mask at random."
        )
    if "teacher" in strategy.onlookers and not config.teacher.kept:
        raise ConfigError(
            f"config.mask.strategy = {name!r} asks the teacher, and config.teacher = "
            f"{str(config.teacher)!r} keeps none: --config.teacher=moving_average, or mask at "
            "random."
        )
    only = strategy.reads == ("predicted_loss",)
    if config.teacher.frame_stride > 1 and not only:
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads {' and '.join(strategy.reads)} of every frame: "
            "frame_stride = 1 in config.teacher"
        )
    if config.teacher.view == "parts" and (not only or config.teacher.frame_stride > 1):
        raise ConfigError(
            f"config.teacher = {str(config.teacher)!r}: with view = 'parts' every frame is seen, "
            f"and predicted losses alone are read, not {' and '.join(strategy.reads)}: "
            "frame_stride = 1 and a strategy such as hard, or view = 'whole'"
        )
    if config.teacher.every_steps > 1 and not (only and strategy.onlookers == ("teacher",)):
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads more than the teacher's predicted losses, "
            "which alone are kept from step to step: every_steps = 1 in config.teacher"
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
    pool = getattr(config, section).pool
    if pool != "mean" and not LAYOUTS[layout].cls_token:
        raise ConfigError(
            f"config.{section}.pool = {pool!r}, and the layout {layout!r} has no cls token: "
            f"--config.{section}.pool=mean"
        )


def _check_width(config: Any, part: str) -> None:
    width = getattr(config.model, f"{part}width")
    heads = getattr(config.model, f"{part}heads")
    if width % heads or width % 4:
        raise ConfigError(
            f"config.model.{part}width = {width}: expected a multiple of 4, for the positions, "
            f"and of config.model.{part}heads = {heads}"
        )
