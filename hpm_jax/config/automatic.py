"""Options that a run chooses at its start, from the data and the machine.

A config lists their names in `automatic`; options set on the command line are excluded. The chosen
values are stored in the workdir, so that a run keeps them when it resumes on another machine.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from hpm_jax.config.shared import Data
from hpm_jax.errors import ConfigError
from hpm_jax.fields import build
from hpm_jax.models.sizes import SIZES
from hpm_jax.storage import as_path, reported
from hpm_jax.text_files import read_json


def find_options(
    config: ml_collections.ConfigDict, given: Iterable[str], workdir: str | Path
) -> list[str]:
    """Sets the options in `config.automatic`; returns lines to print, none if nothing is new.

    Args:
        config: changed in place.
        given: options set on the command line, which are not changed.
        workdir: the workdir of the run; if it has a `config.json`, its values are used.

    Raises:
        DataError: if the data cannot be read.
    """
    given = set(given)
    names = [name for name in config.get("automatic", ()) if name not in given]
    if not names:
        return []
    there = as_path(workdir) / "config.json"
    with reported(there.parent):
        begun = there.exists()
    if begun:
        advice = "put a copy of it back, or name all options on the command line"
        before = _flat(read_json(there, ConfigError, advice))
        _set(config, {name: _tuple(before[name]) for name in names if name in before})
        return []
    from hpm_jax.data.sources import SOURCES
    from hpm_jax.data.statistics import config_lines
    from hpm_jax.data.suggest import facts_of, suggest, this_machine

    data = build(Data, config.data.to_dict(), "config.data")
    facts, machine = facts_of(SOURCES[data.source](data), data), this_machine()
    known = suggest(facts, machine)
    fixed = {name: _get(config, name) for name in known if name not in names}
    found = suggest(facts, machine, fixed | _size_of(fixed))
    found = {name: found[name] for name in names if name in found}
    _set(config, found)
    channels = f"{facts.channels} channel{'s' * (facts.channels > 1)}"
    devices = f"{machine.devices} x {machine.platform}"
    return [
        f"found for {facts.images:,} images, usually {facts.height} x {facts.width} with "
        f"{channels}, on {devices} with {machine.cores} cores; to fix or change it:",
        *(f"  {line}" for line in config_lines(found)),
    ]


def _size_of(fixed: Mapping[str, Any]) -> dict[str, str]:
    """The name of the model size with the fixed width and depth."""
    wanted = [fixed.get(f"model.{name}") for name in ("width", "depth")]
    sizes = [name for name, size in SIZES.items() if [size["width"], size["depth"]] == wanted]
    return {"size": sizes[0]} if sizes else {}


def _get(config: ml_collections.ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _set(config: ml_collections.ConfigDict, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = value


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by name with dots."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
