"""Sends log records and warnings of libraries to `warnings.log` in the workdir, not the console."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from hpm_jax.storage import as_path, is_local

NAME = "warnings.log"
_HIDDEN: set[str] = set()
FORMAT = "%(asctime)s %(levelname)s %(name)s %(pathname)s:%(lineno)d] %(message)s"


class WorkdirHandler(logging.Handler):
    """Appends to a file in a folder as soon as the folder exists; a refused run creates none."""

    def __init__(self, folder: Path, name: str = NAME):
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter(FORMAT))
        self.folder, self.name_of_file = folder, name
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Buffers a record, or writes all buffered ones."""
        self._waiting.append(self.format(record))
        try:
            if self.folder.is_dir():
                with (self.folder / self.name_of_file).open("a") as file:
                    file.writelines(f"{line}\n" for line in self._waiting)
                self._waiting.clear()
        except OSError:  # failing to log a library's warnings does not end a run
            self._waiting.clear()


def log_to_workdir(workdir: str | os.PathLike[str]) -> None:
    """Sends the records of all loggers, and Python's warnings, to the workdir.

    For a run in a bucket, where nothing can be appended, only errors are shown.
    """
    folder = as_path(workdir)
    handler: logging.Handler = logging.StreamHandler()
    if is_local(folder):
        handler = WorkdirHandler(folder)
    else:
        handler.setLevel(logging.ERROR)
    logging.root.handlers = [handler]  # replaces absl's handler
    logging.captureWarnings(True)
    # Python's resource tracker warns about shared memory of a dead worker, and removes it
    filters = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, filters))


def hide_unraisable(text: str) -> None:
    """Hides unraisable errors of libraries whose message begins with `text`.

    The error is raised elsewhere as well. Another hook, such as that of pytest, is kept.
    """
    _HIDDEN.add(text)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show_unless_hidden


def _show_unless_hidden(found: Any) -> None:
    if not str(found.exc_value).startswith(tuple(_HIDDEN)):
        sys.__unraisablehook__(found)
