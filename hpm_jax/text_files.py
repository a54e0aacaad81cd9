"""Reads text and JSON files from other sources, after checking their size."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from hpm_jax.errors import UserError
from hpm_jax.storage import is_local

NOTE_BYTES = 2**26  # largest JSON file beside weights or in a workdir
LIST_BYTES = 2**30  # largest list of images: ten million lines


def printable(name: str | bytes) -> str:
    """Returns a file name for messages, tables and pictures, with invalid UTF-8 as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_size(path: Path, limit: int, error: type[Exception]) -> None:
    """Raises an `error` for a pipe, a device, or a file of more than `limit` bytes.

    Objects in a bucket are not checked.

    Raises:
        OSError: if the file does not exist.
    """
    if not is_local(path):
        return
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{printable(str(path))} is a folder, a pipe or a device, expected a file")
    if status.st_size > limit:
        raise error(
            f"{printable(str(path))} has {status.st_size:,} bytes, expected at most {limit:,}: is "
            "it the right file?"
        )


def read_text(path: Path, limit: int, error: type[UserError]) -> str:
    """Returns the text of a UTF-8 file; other bytes are escaped as in `os.fsdecode`.

    Raises:
        UserError: an `error` for a file that is too large.
    """
    check_size(path, limit, error)
    return path.read_bytes().decode("utf-8-sig", "surrogateescape")


def read_json(
    path: Path,
    error: type[UserError],
    advice: str = "copy or download it again",
    kind: type = dict,
) -> Any:
    """Returns the object or list in a JSON file.

    Args:
        advice: what to do if the file is damaged, as the end of a sentence.
        kind: expected type of the content.

    Raises:
        UserError: an `error` for a file with other content.
    """
    check_size(path, NOTE_BYTES, error)
    return parse_json(path.read_bytes(), printable(str(path)), error, advice, kind)


def parse_json(
    text: str | bytes,
    where: str,
    error: type[UserError],
    advice: str = "copy or download it again",
    kind: type = dict,
) -> Any:
    """Returns the object or list in a JSON text; `where` is its name in messages.

    Raises:
        UserError: an `error` for a text with other content.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{where} is damaged ({reason}): {advice}") from None
    if not isinstance(found, kind):
        expected = "options by name" if kind is dict else "a list"
        raise error(f"{where} holds a {type(found).__name__}, expected {expected}")
    return found
