"""The folder that a run leaves behind, and the guard against another run's."""

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

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def open_workdir(path: str | Path, config: Any) -> Path:
    """Makes the folder and writes `config.json` and `versions.json`, or checks what is there.

    Raises:
        ConfigError: where the folder belongs to a run with another config; it is left untouched.
        WorkdirInUse: where another process works there.
        StorageError: where it cannot be written.
    """
    workdir = as_path(path)
    there = workdir / "config.json"
    check_agreement(_flat(as_dict(config)) | versions() | {"workdir": str(workdir)})
    with reported(workdir):
        begun = there.exists()
    if begun:
        _check_same(read_config(workdir), config, workdir)
    wait_for_all("every process has checked the workdir")
    if is_main():
        hold(workdir)
        if is_local(workdir):
            with reported(workdir):
                (workdir / "pictures").mkdir(parents=True, exist_ok=True)
        _write_json(there, as_dict(config))
        _write_json(workdir / "versions.json", versions())
    wait_for_all("the workdir is there")
    return workdir


def versions() -> dict[str, str]:
    """What computes: this package, Python, and the packages that matter to a result."""
    found = {"hpm_jax": hpm_jax.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def read_config(workdir: Path) -> Any:
    """The options of the run in `workdir`; those that came to the package later at their defaults.

    Raises:
        ConfigError: for options that this version of the package does not have, or cannot run.
    """
    try:
        return freeze(json.loads((workdir / "config.json").read_text()))
    except ConfigError as error:
        raise ConfigError(
            f"{workdir / 'config.json'} is of another version of hpm_jax, where options were "
            f"different: {error}. Its versions.json names the version that can go on with it."
        ) from None


def _check_same(there: Any, config: Any, workdir: Path) -> None:
    old, new = result_options(there), result_options(config)
    differences = [
        f"config.{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differences:
        listed = "\n  ".join(differences)
        raise ConfigError(
            f"{workdir} belongs to a run with another config:\n  {listed}\n"
            "Give this run another --workdir, or go on with that one by setting these back."
        )


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write(path, json.dumps(value, indent=2) + "\n")
