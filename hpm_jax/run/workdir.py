"""The workdir of a run, protected against runs with another config."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import hpm_jax
from hpm_jax.config import ConfigError, freeze
from hpm_jax.fields import as_dict, result_options
from hpm_jax.run.lock import hold
from hpm_jax.run.processes import check_agreement, is_main, wait_for_all
from hpm_jax.storage import as_path, is_local, reported, write
from hpm_jax.text_files import read_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
# Options that config.run.accept_new_options allows to change: the state keeps its structure.
ACCEPTABLE = {
    "model.dtype",
    *(f"optimizer.{name}" for name in ("base_learning_rate", "absolute_learning_rate", "floor")),
    *(f"optimizer.{name}" for name in ("clip_norm", "weight_decay", "b1", "b2", "eps")),
}


def open_workdir(path: str | Path, config: Any) -> Path:
    """Creates the folder with `config.json` and `versions.json`, or checks an existing one.

    Raises:
        ConfigError: if the folder belongs to a run with another config; it is left untouched.
        WorkdirInUse: if another process uses it.
        StorageError: if it cannot be written.
    """
    workdir = as_path(path)
    there = workdir / "config.json"
    check_agreement(_flat(as_dict(config)) | versions() | {"workdir": str(workdir)})
    with reported(workdir):
        begun = there.exists()
    before = read_config(workdir) if begun else config
    changes = _check_same(before, config, workdir)
    wait_for_all("every process has checked the workdir")
    if is_main():
        hold(workdir)
        if is_local(workdir):
            with reported(workdir):
                (workdir / "pictures").mkdir(parents=True, exist_ok=True)
        if changes:
            _record(workdir, changes)
        _write_json(there, as_dict(config))
        _write_json(workdir / "versions.json", versions())
    wait_for_all("the workdir is there")
    return workdir


def versions() -> dict[str, str]:
    """Returns the versions of this package, Python, and the packages that affect a result."""
    found = {"hpm_jax": hpm_jax.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def read_config(workdir: Path) -> Any:
    """Reads the options of the run in `workdir`; newer options get their defaults.

    Raises:
        ConfigError: if the file is truncated or empty, or has options that this version of the
            package does not have or support.
    """
    there = workdir / "config.json"
    found = read_json(
        there,
        ConfigError,
        "put a copy of it back; or delete it, and the command that began the run goes on from the "
        "newest checkpoint with the options that it names",
    )
    try:
        return freeze(found)
    except ConfigError as error:
        raise ConfigError(
            f"{there} is of another version of hpm_jax, where options were "
            f"different: {error}. Its versions.json names the version that can go on with it."
        ) from None


def _check_same(there: Any, config: Any, workdir: Path) -> dict[str, list[Any]]:
    """Returns accepted changes by option, `[before, now]`; others raise a `ConfigError`."""
    old, new = result_options(there), result_options(config)
    changes = {
        key: [old.get(key), new.get(key)]
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    refused = {key for key in changes if key not in ACCEPTABLE}
    if not changes or (config.run.accept_new_options and not refused):
        return changes
    listed = "\n  ".join(f"config.{key}: {a!r} there, {b!r} now" for key, (a, b) in changes.items())
    advice = "Give this run another --workdir, or go on with that one by setting these back"
    if not refused:
        advice += ", or with the new options by --config.run.accept_new_options=True"
    raise ConfigError(f"{workdir} belongs to a run with another config:\n  {listed}\n{advice}.")


def _record(workdir: Path, changes: dict[str, list[Any]]) -> None:
    """Adds accepted changes to `config_changes.json`, the history of config.json."""
    there = workdir / "config_changes.json"
    found = read_json(there, ConfigError, "move it away", list) if there.exists() else []
    saved = workdir / "checkpoints"
    steps = [int(x.name) for x in saved.iterdir() if x.name.isdigit()] if saved.exists() else []
    _write_json(there, [*found, {"from_step": max(steps, default=0), "options": changes}])


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2) + "\n")
