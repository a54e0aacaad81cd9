"""The parts of an unfinished output: existing and missing ones.

A part holds the features of consecutive records. An interrupted command that is run again makes the
missing parts.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.embed.formats import Format
from hpm_jax.embed.rows import Rows
from hpm_jax.errors import ConfigError
from hpm_jax.run.lock import hold
from hpm_jax.storage import reported, write
from hpm_jax.text_files import read_json

NOTES = "notes.json"


class Parts(NamedTuple):
    """The parts of an output."""

    folder: Path
    format: Format
    records: int  # number of records
    size: int  # number of records per part
    classes: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """Returns the paths of all parts, existing or not."""
        number = -(-self.records // self.size)
        return [self.folder / f"part-{n:05d}{self.format.ending}" for n in range(number)]

    def missing(self) -> list[int]:
        """Returns the numbers of the missing parts."""
        return [number for number, path in enumerate(self.paths) if not path.exists()]

    def span(self, number: int) -> np.ndarray:
        """Returns the record indices of a part."""
        return np.arange(number * self.size, min((number + 1) * self.size, self.records))

    def read(self, number: int, features: bool = False) -> Rows:
        """A part that is there.

        Raises:
            ConfigError: where it is damaged.
        """
        path = self.paths[number]
        try:
            return self.format.read_part(path, features)
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise ConfigError(
                f"{path} is damaged ({type(error).__name__}): remove it, and the same command "
                "makes it again"
            ) from None

    def left_out(self) -> dict[int, str]:
        """What could not be read, of all parts."""
        found: dict[int, str] = {}
        for number in range(len(self.paths)):
            found |= self.read(number).left_out
        return found


def open_parts(
    folder: Path,
    format: Format,
    count: int,
    size: int,
    classes: Sequence[str],
    made_by: dict[str, Any],
) -> Parts:
    """Makes the folder, or checks what is there.

    Args:
        count: of records.
        size: records of a part; parts that are there keep theirs.
        made_by: what the features depend on.

    Raises:
        ConfigError: for parts that were made with other options, and for a folder of other files.
        StorageError: where it cannot be written, or another process works there.
    """
    there = folder / NOTES
    begun = any(folder.glob("part-*"))
    if begun and not there.exists():
        raise ConfigError(f"--out={folder} holds parts without {NOTES}: remove them")
    if begun:
        found = read_json(there, ConfigError, f"remove {folder}")
        check_same(folder, found.get("made_by", {}), made_by)
        size = found["part_size"]
    elif folder.exists() and any(_foreign(x) for x in folder.iterdir()):
        raise ConfigError(f"--out={folder} holds other files: name a folder that is new or empty")
    hold(folder)
    with reported(folder):
        for path in folder.glob(".part-*.new"):  # of a command that was killed
            path.unlink()
    if not begun:
        write(there, json.dumps({"made_by": made_by, "part_size": size}, indent=2) + "\n")
    return Parts(folder, format, count, size, tuple(classes))


def _foreign(path: Path) -> bool:
    """Whether a file is none that this command begins with; `.lock` and unfinished parts are."""
    return path.name != NOTES and not path.name.startswith(".")


def check_same(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises a `ConfigError` that names the first option in which two outputs differ."""
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise ConfigError(
                f"{path} was made with other options: {key} is {found.get(key)!r} there and "
                f"{expected.get(key)!r} here; give another --out, or remove what is there"
            )


def remove(folder: Path) -> None:
    """Removes parts that have become one file, if they are there."""
    if (folder / NOTES).exists():
        with reported(folder):
            shutil.rmtree(folder)
