"""Validates comparison configs."""

from hpm_jax.config import Compare
from hpm_jax.errors import ConfigError, check_choice


def check_compare(config: Compare) -> None:
    """Raises a `ConfigError` for an invalid comparison config."""
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
    if not config.checkpoints:
        raise ConfigError("config.checkpoints is empty: give one share of the run or more")
    if "finetune" in config.measures and not config.finetune.shares:
        raise ConfigError(
            "config.finetune.shares is empty: give one share of the labels or more, or leave "
            "finetune out of config.measures"
        )
    if config.primary not in config.measures:
        raise ConfigError(
            f"config.primary = {config.primary!r} is not measured: expected one of "
            f"config.measures = {config.measures}"
        )
