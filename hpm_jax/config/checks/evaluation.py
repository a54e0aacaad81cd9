"""Validates configs of reports, probes and evaluations."""

from typing import Any

from hpm_jax.config import Evaluate, Probe, Report
from hpm_jax.config.checks.shared import check_data, check_start, check_warmup
from hpm_jax.errors import ConfigError, check_choice

PROBES = ("baselines", "knn", "few_shot", "linear", "logistic", "attentive")


def check_report(config: Report) -> None:
    """Raises a `ConfigError` for an invalid report config."""
    check_start(config)
    if config.features_file and not config.features_file.endswith(".npz"):
        raise ConfigError(f"config.features_file = {config.features_file!r}: expected FILE.npz")
    for name in config.probes.names:
        check_choice("config.probes.names", name, PROBES)
    if not config.probes.names and not config.finetune.epochs:
        raise ConfigError(
            "config.probes.names is empty and config.finetune.epochs = 0, so there is nothing to "
            f"measure: name some of {', '.join(PROBES)}"
        )
    for option, probes in (("neighbors", {"baselines", "knn"}), ("shots", {"few_shot"})):
        if not getattr(config.probes, option) and probes & set(config.probes.names):
            raise ConfigError(
                f"config.probes.{option} is empty: give one number or more, or leave "
                f"{' and '.join(sorted(probes))} out of config.probes.names"
            )
    _check_block(config)
    check_data(config)


def check_probe(config: Probe) -> None:
    """Raises a `ConfigError` for an invalid probe config."""
    check_start(config)
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
    if optimizer.floor > 1:
        raise ConfigError(
            f"config.optimizer.floor = {optimizer.floor:g}: expected at most 1, as a share of each "
            "of config.optimizer.base_learning_rates"
        )
    _check_block(config)
    check_data(config)
    check_warmup(config)


def check_evaluate(config: Evaluate) -> None:
    """Raises a `ConfigError` for an invalid evaluation config."""
    if not config.init_from:
        raise ConfigError(
            "config.init_from is empty: name the workdir of a fine-tuning run, as in "
            "--config.init_from=runs/hpm_b200_finetuned/best, or a file of weights with a head."
        )
    check_data(config)


def _check_block(config: Any) -> None:
    if not config.features.block:
        raise ConfigError(
            "config.features.block = 0 does not exist: blocks count from 1, or from the end: -1"
        )
