"""Validates pre-training configs: masks, losses, teacher and target that go together."""

from hpm_jax.config import Config
from hpm_jax.config.checks.shared import (
    check_common,
    check_grid,
    check_pool,
    check_variant,
    check_width,
)
from hpm_jax.errors import ConfigError
from hpm_jax.losses.term import ANNOTATIONS, Term


def check_pretrain(config: Config) -> None:
    """Raises a `ConfigError` for an invalid pre-training config."""
    check_common(config)
    _check_method(config)


def _check_method(config: Config) -> None:
    """Checks combinations of options."""
    check_grid(config)
    check_variant(config)
    check_pool(config, "evaluation")
    for name, ratio in (("ratio", config.mask.ratio), ("ratio_end", config.mask.ratio_end)):
        try:
            if ratio:
                config.unit.hidden(ratio)
        except ValueError as error:
            raise ConfigError(f"config.mask.{name} = {ratio}: {error}") from None
    for part in ("", "decoder_"):
        check_width(config, part)
    frames, stride = config.grid[0], config.teacher.frame_stride
    if frames % stride:
        raise ConfigError(
            f"config.teacher = {str(config.teacher)!r}: frame_stride = {stride} does not divide "
            f"the {frames} frames of the grid (config.data.frames / config.model.tubelet)"
        )
    _check_terms(config)
    _check_strategy(config)
    _check_target(config)


def _check_terms(config: Config) -> None:
    """Checks that each term occurs once, and what it requires of other options."""
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
    whole = [term for term in config.terms if term.whole_image]
    changed = [term.name for term in whole if type(term).whole_input is not Term.whole_input]
    if changed and len(whole) > 1:
        raise ConfigError(
            f"config.losses has {' and '.join(term.name for term in whole)}, which take one pass "
            f"of the student over the whole image, and {changed[0]} changes it: leave one out"
        )
    for term in config.terms:
        if unknown := sorted(set(term.annotations) - set(ANNOTATIONS)):
            raise ConfigError(
                f"config.losses has {str(term)!r}, which reads {unknown[0]!r} of each example: "
                f"expected one of {', '.join(ANNOTATIONS)}"
            )
    # the teacher first: the width of a target may be that of its features
    plugs = (
        *(config.teacher, config.mask.strategy, config.target, config.objective, config.decoder),
        *config.terms,
    )
    for plug in plugs:
        plug.check(config)


def _check_strategy(config: Config) -> None:
    """Checks that the inputs of the mask strategy are available."""
    strategy, name = config.mask.strategy, str(config.mask.strategy)
    if not strategy.reads:
        return
    if "predicted_loss" in strategy.reads and not any(x.predicts_loss for x in config.terms):
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads predicted losses, and no term of "
            f"config.losses = {tuple(map(str, config.losses))} teaches a loss predictor: "
            "--config.losses=\"('ranking',)\", or mask at random."
        )
    if "teacher" in strategy.networks and not config.teacher.kept:
        raise ConfigError(
            f"config.mask.strategy = {name!r} asks the teacher, and config.teacher = "
            f"{str(config.teacher)!r} keeps none: --config.teacher=moving_average, or mask at "
            "random."
        )
    lacking = [read for read in strategy.reads if not config.teacher.gives(read)]
    if "teacher" in strategy.networks and lacking:
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads predicted losses of the teacher, and "
            f"config.teacher = {str(config.teacher)!r} predicts none: "
            "--config.teacher=moving_average, or a strategy that reads attention or features"
        )
    only = strategy.reads == ("predicted_loss",)
    if config.teacher.frame_stride > 1 and not only:
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads {' and '.join(strategy.reads)} of every frame: "
            "frame_stride = 1 in config.teacher"
        )
    view = config.teacher.view
    if view != "whole" and (not only or config.teacher.frame_stride > 1):
        raise ConfigError(
            f"config.teacher = {str(config.teacher)!r}: with view = {view!r} predicted losses "
            f"alone are read, of all frames, not {' and '.join(strategy.reads)}: "
            "frame_stride = 1 and a strategy such as hard, or view = 'whole'"
        )
    if config.teacher.every_steps > 1 and not (only and strategy.networks == ("teacher",)):
        raise ConfigError(
            f"config.mask.strategy = {name!r} reads more than the teacher's predicted losses, "
            "which alone are kept from step to step: every_steps = 1 in config.teacher"
        )


def _check_target(config: Config) -> None:
    """What target and terms read has to be there, of every patch and in every step."""
    _check_reader(config, f"config.target = {str(config.target)!r}", config.target.reads, "target")
    for term in config.terms:
        _check_reader(config, f"config.losses has {str(term)!r}, which", term.reads, "term")


def _check_reader(config: Config, name: str, reads: tuple[str, ...], what: str) -> None:
    """The same of one plug: `what` is "target" or "term"."""
    teacher = config.teacher
    if not reads:
        return
    if not teacher.kept:
        raise ConfigError(
            f"{name} asks the teacher, and config.teacher = "
            f"{str(teacher)!r} keeps none: --config.teacher=moving_average, or another {what}."
        )
    for option, value, needed, why in (
        ("every_steps", teacher.every_steps, 1, "features are not kept from step to step"),
        ("frame_stride", teacher.frame_stride, 1, "frames that are not seen have no features"),
        ("view", teacher.view, "whole", "features are those of the whole image"),
    ):
        if value != needed:
            raise ConfigError(
                f"{name} reads {' and '.join(reads)} of the "
                f"teacher, and {why}: {option} = {needed!r} in config.teacher, not {value!r}"
            )
