"""Resolves `--config`: a path, or the name of a config that comes with the package."""

import re
from pathlib import Path

from hpm_jax.errors import nearest

_PACKAGE = Path(__file__).parent
_FLAG = re.compile(r"--?config(=.*)?", re.DOTALL)


def shipped() -> dict[str, Path]:
    """Returns the configs of this package by name, from the checkout or the installation."""
    beside = _PACKAGE.parent / "configs"  # in a checkout, also for an editable installation
    folder = beside if (beside / "quickstart.py").is_file() else _PACKAGE / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find(value: str) -> str:
    """Returns the value of `--config`, `FILE` or `FILE:VARIANT`, with a shipped config's path.

    An existing file takes precedence. Otherwise `quickstart`, `quickstart.py` and
    `configs/quickstart.py` name the same shipped config, from every folder. Other values are
    unchanged.
    """
    name, colon, variant = value.partition(":")
    path = Path(name)
    if path.exists() and not path.is_dir():
        return value
    ours = path.suffix in ("", ".py") and path.parent in (Path(), Path("configs"))
    there = shipped().get(path.stem) if ours else None
    return f"{there}{colon}{variant}" if there else value


def find_all(argv: list[str]) -> list[str]:
    """Returns a command line in which `--config` has the path of its file."""
    found: list[str] = []
    for word in argv:
        flag = _FLAG.fullmatch(word)
        if found and found[-1] in ("--config", "-config"):
            word = find(word)
        elif flag and flag[1]:
            word = f"--config={find(flag[1][1:])}"
        found.append(word)
    return found


def missing(value: str) -> str:
    """Returns the error message for a `--config` that does not name a file."""
    path, ours = Path(value.partition(":")[0]), shipped()
    if path.parent == Path() and path.suffix in ("", ".py"):
        guess = nearest(path.stem, ours)
        listed = "" if guess.startswith(": choose") else f" The shipped ones: {', '.join(ours)}."
        return f"there is no config {path}{guess}{listed}"
    choices = [str(file) for file in sorted(path.parent.glob("*.py"))]
    return f"there is no config file {path}" + (nearest(str(path), choices) if choices else "")
