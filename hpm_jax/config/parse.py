"""From an ml_collections config to checked options, or to an error that says what to change.

A config file starts from `defaults()` and changes what it wants; `freeze` turns the result into the
dataclasses of `hpm_jax/config`, or names the nearest right key or value.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from hpm_jax.errors import ConfigError, check_choice, nearest


def parse_variant(text: str | None, choices: Iterable[str], **options: Any) -> dict[str, Any]:
    """What stands behind the colon of `--config configs/x.py:L,epochs=800`.

    Args:
        text: bare words and `key=value` pairs, with commas between.
        choices: the bare words that there are, values of the first option; none is fine too.
        options: the keys there are, with their defaults, whose types the values take.
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
    """From a ConfigDict (or a dict read from config.json) to the checked options of its task.

    Raises:
        ConfigError: for an unknown key, a value of the wrong type, or one that cannot run.
    """
    from hpm_jax.config import TASKS  # the package is still being imported when this file is read
    from hpm_jax.config.checks import CHECKS

    task = check_choice("config.task", config.get("task", "pretrain"), TASKS)
    frozen = _build(TASKS[task], config, "config")
    CHECKS[task](frozen)
    return frozen


def _build(kind: type, values: Mapping[str, Any], path: str) -> Any:
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"{path} = {values!r}: expected options, {_fields(kind)}")
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    built = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{path}.{key} does not exist{nearest(key, fields)}")
        if value is None:  # to be inherited, and nothing there to inherit from: the default
            continue
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
