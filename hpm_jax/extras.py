"""Imports what is optional: libraries, whose error names the extra to install, and extensions."""

import importlib
from typing import Any

from hpm_jax.errors import ConfigError


class MissingPackage(ConfigError, ImportError):
    """An optional library is not installed; the message has the command that installs it."""


def import_extra(module: str, extra: str, what: str, package: str = "") -> Any:
    """Imports and returns the module of an optional library.

    Args:
        module: name of the module, such as "pyarrow.parquet".
        extra: name of the extra in pyproject.toml, as in `pip install ".[video]"`.
        what: what needs the module, for the message.
        package: name of the package for pip, if it differs from the module's.

    Raises:
        MissingPackage: if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = package or module.split(".")[0]
        raise MissingPackage(f'{what} needs the extra "{extra}": pip install {package}') from None


def compiled(module: str) -> Any | None:
    """Imports and returns an extension of this package; None if it has not been compiled."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
