"""Builds the pre-training config of every arm from the options of a comparison."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hpm_jax.compare.cells import BASELINES
from hpm_jax.compare.statistics import Contrast
from hpm_jax.config.compare import METHOD, Compare
from hpm_jax.config.pretrain import Config
from hpm_jax.errors import ConfigError, UserError, check_choice, nearest
from hpm_jax.fields import as_dict
from hpm_jax.run.build import build_flops


def arm_configs(options: Compare) -> dict[str, Config]:
    """Returns the config of every arm, by name, in the order of `options.order`.

    At equal FLOPs the epochs of every arm are set so that its operations equal those of the most
    expensive arm, to the nearest whole epoch.

    Raises:
        ConfigError: for an arm that cannot run, that differs in more than its method, or whose
            name is that of a baseline.
    """
    for name in options.order:
        check_choice("config.order", name, options.arms)
    names = [*options.order, *sorted(set(options.arms) - set(options.order))]
    configs = {name: _arm_config(options, name) for name in names}
    if options.budget == "images":
        return configs
    costs = {name: operations(config) for name, config in configs.items()}
    return {
        name: _with_epochs(config, round(config.optimizer.epochs * max(costs.values()) / cost))
        for (name, config), cost in zip(configs.items(), costs.values(), strict=True)
    }


def operations(config: Config) -> float:
    """Returns FLOPs per image of a step in which the teacher runs, forward and backward."""
    flops = build_flops(config)
    return flops.student + flops.teacher


def parse_contrasts(texts: Sequence[str], arms: Collection[str]) -> tuple[Contrast, ...]:
    """Parses contrasts `better > worse: claim` of existing arms.

    Raises:
        ConfigError: for another form, or an arm that does not exist.
    """
    found = []
    for text in texts:
        parts = re.fullmatch(r"\s*(\w+)\s*>\s*(\w+)\s*(?::\s*(.*))?", text)
        if not parts:
            raise ConfigError(
                f"config.contrasts: {text!r} is none: expected 'better > worse: what is claimed'"
            )
        for name in parts.groups()[:2]:
            if name not in arms:
                raise ConfigError(
                    f"config.contrasts: {text!r} names {name!r}, which is no arm"
                    f"{nearest(name, arms)}"
                )
        found.append(Contrast(parts[1], parts[2], parts[3] or ""))
    return tuple(found)


def with_seed(config: Config, seed: int) -> Config:
    """Returns the same config with another seed."""
    return dataclasses.replace(config, seed=seed)


def _arm_config(options: Compare, name: str) -> Config:
    from hpm_jax.config import freeze

    if name in BASELINES:
        raise ConfigError(f"config.arms.{name}: that name is taken by a baseline; choose another")
    changes = options.arms[name]
    if not hasattr(changes, "items"):
        raise ConfigError(f"config.arms.{name} = {changes!r}: expected the options that it changes")
    for section in changes:
        if section not in METHOD and section not in options.differ:
            raise ConfigError(
                f"config.arms.{name}.{section}: arms may differ in {', '.join(METHOD)}; one that "
                f"differs in more is no fair comparison, unless config.differ names {section!r}"
                f"{nearest(section, METHOD)}"
            )
    base = as_dict(options.base) | {"modules": options.modules}
    try:
        return freeze(_merged(base, changes))
    except UserError as error:
        raise ConfigError(f"config.arms.{name}: {error}") from None


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        deeper = hasattr(value, "items") and hasattr(merged.get(key), "items")
        merged[key] = _merged(merged[key], value) if deeper else value
    return merged


def _with_epochs(config: Config, epochs: int) -> Config:
    optimizer = dataclasses.replace(config.optimizer, epochs=max(epochs, 1))
    return dataclasses.replace(config, optimizer=optimizer)
