"""Converts an ml_collections config to checked options, or raises an error with the remedy.

A config file starts from `defaults()` and changes some options. `freeze` converts the result to the
dataclasses of `hpm_jax/config`; its errors name the nearest valid key or value.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from hpm_jax.config.moved import renewed
from hpm_jax.config.tasks import find_task, resolve
from hpm_jax.errors import ConfigError, check_choice, nearest
from hpm_jax.fields import build, short


def defaults(task: str = "pretrain", modules: tuple[str, ...] = ()) -> ml_collections.ConfigDict:
    """Returns every option at its default, as the ConfigDict that config files start from.

    Args:
        task: a name in `TASKS`. Options that the task inherits from a pre-trained encoder are None
            unless a config sets them.
        modules: your own modules, such as the one that registers the task.

    Raises:
        ConfigError: for a module that cannot be imported, and for an unknown task.
    """
    entry = find_task({"task": task, "modules": modules})
    config = ml_collections.ConfigDict(short(entry.options()), convert_dict=True)
    config.update(task=task, modules=modules)
    for section, names in entry.inherits.items():
        for name in names:
            kind = type(config[section][name])
            config[section][name] = ml_collections.config_dict.placeholder(kind)
    return config


def parse_variant(text: str | None, choices: Iterable[str], **options: Any) -> dict[str, Any]:
    """Parses the text after the colon of `--config configs/x.py:L,epochs=800`.

    Args:
        text: bare words and `key=value` pairs, separated by commas.
        choices: the allowed bare words, which are values of the first option; may be empty.
        options: the allowed keys with their defaults; values are converted to the defaults' types.
    """
    chosen, choices = dict(options), list(choices)
    first = next(iter(options)) if choices else ""
    for item in filter(None, (text or "").split(",")):
        key, value = item.split("=", 1) if "=" in item else (first or item, item)
        if key not in options:
            raise ConfigError(f"no variant {item!r}{nearest(key, options)}")
        if choices and key == first:
            value = check_choice(key, value, choices)
        try:
            chosen[key] = type(options[key])(value)
        except ValueError:
            kind = type(options[key]).__name__
            raise ConfigError(f"variant {key}={value!r}: expected {kind}") from None
    return chosen


def freeze(config: Mapping[str, Any]) -> Any:
    """Converts a ConfigDict (or a dict read from config.json) to the checked options of its task.

    Raises:
        ConfigError: for an unknown key, a value of the wrong type, or an invalid value.
    """
    task = find_task(config)
    frozen = build(task.options, renewed(config), "config")
    if task.check is not None:
        resolve(task.check)(frozen)
    return frozen
