"""From an ml_collections config to checked options, or to an error that says what to change.

A config file starts from `defaults()` and changes what it wants; `freeze` turns the result into the
dataclasses of `hpm_jax/config`, or names the nearest right key or value.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hpm_jax.config.moved import renewed
from hpm_jax.errors import ConfigError, check_choice, nearest
from hpm_jax.fields import build
from hpm_jax.plugs import import_modules


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
    import_modules(config.get("modules") or ())
    frozen = build(TASKS[task], renewed(config), "config")
    CHECKS[task](frozen)
    return frozen
