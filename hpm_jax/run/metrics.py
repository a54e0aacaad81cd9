"""Writes the metrics of a run to `metrics.jsonl`, and to TensorBoard if it is installed."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpm_jax.errors import ConfigError
from hpm_jax.extras import import_extra
from hpm_jax.run.processes import is_main
from hpm_jax.run.tensorboard import EventWriter
from hpm_jax.storage import as_path, flush, is_local, reported, write

FLUSH_SECONDS = 60.0  # between copies to a bucket


class MetricsWriter:
    """Appends numbers by step; a run that resumes from `step` rewrites later steps.

    Files in a bucket cannot be appended to: they grow in a temporary folder and are copied as a
    whole from time to time.

    Every method raises `StorageError` if something cannot be written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        step: int = 0,
        wandb: str = "",
        say: Callable[[str], None] = print,
    ):
        """Takes `wandb`, a project of Weights & Biases; "" for none."""
        self._workdir = as_path(workdir)
        self._wandb = _start_wandb(wandb, self._workdir) if wandb else None
        self.path = self._workdir / "metrics.jsonl"
        lines, damaged = scan_lines(self.path)
        if not step or damaged:
            aside = keep_aside(self.path)
        if step and damaged:
            say(
                f"{damaged} damaged lines of {self.path} are left out; the file as it was is "
                f"{aside}"
            )
        kept = [line for line in lines if line["step"] <= step] if step else []
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write(self.path, text)
        self._spool = None if is_local(self._workdir) else tempfile.TemporaryDirectory()
        self._folder = Path(self._spool.name) if self._spool else self._workdir
        self._flushed = time.monotonic()
        self._here = self._folder / "metrics.jsonl"
        with reported(self._folder):
            if self._spool:
                self._here.write_text(text)
            self._file = self._here.open("a")
        self._events: EventWriter | None = None
        try:
            self._events = EventWriter(self._folder / "tensorboard", step)
        except ConfigError as error:  # the same numbers are in metrics.jsonl
            say(f"{error}; metrics.jsonl has every number")

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Writes one line `{"step": step, ...}`, and a scalar for each number."""
        with reported(self._here):
            self._file.write(json.dumps({"step": step} | numbers) + "\n")
            self._file.flush()
        if self._events:
            self._events.write(step, numbers)
        if self._wandb:
            self._wandb.log(numbers, step=step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Writes a PNG file to TensorBoard."""
        if self._events:
            self._events.write_picture(step, name, png)

    def flush(self) -> None:
        """Flushes everything so far to its destination; in a bucket, each file is rewritten."""
        self._flushed = time.monotonic()
        with reported(self._here):
            flush(self._file)
        if self._spool:
            for file in sorted(self._folder.rglob("*.*")):
                write(self._workdir / file.relative_to(self._folder), file.read_bytes())

    def close(self) -> None:
        """Flushes and closes everything."""
        self.flush()
        with reported(self._here):
            self._file.close()
        if self._events:
            self._events.close()
        if self._spool:
            self._spool.cleanup()
        if self._wandb:
            self._wandb.finish()


def keep_aside(path: Path) -> Path | None:
    """Copies the lines of an earlier run, or damaged ones, to `metrics.<n>.jsonl`.

    Returns:
        The path of the copy; None if there is nothing to keep.
    """
    content = path.read_bytes() if path.exists() else b""
    if not content.strip():
        return None
    number = 1
    while (there := path.with_name(f"metrics.{number}.jsonl")).exists():
        number += 1
    write(there, content)
    return there


def _start_wandb(project: str, workdir: Path) -> Any:
    """Starts a run of Weights & Biases named after the workdir; a later start resumes it."""
    wandb = import_extra("wandb", "wandb", f"config.run.wandb = {project!r}")
    name = workdir.resolve().name
    config = json.loads((workdir / "config.json").read_text())
    return wandb.init(project=project, id=name, name=name, config=config, resume="allow")


class NoWriter(MetricsWriter):
    """The writer of the other processes of a run, which writes nothing."""

    def __init__(self, workdir: str | os.PathLike[str]):
        self.path = as_path(workdir) / "metrics.jsonl"

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Nothing."""

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_writer(
    workdir: str | os.PathLike[str], step: int, wandb: str, say: Callable[[str], None] = print
) -> MetricsWriter:
    """Returns the writer of this process; only the main process of a run writes."""
    return MetricsWriter(workdir, step, wandb, say) if is_main() else NoWriter(workdir)


def read_lines(path: Path, say: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Reads the lines of a `metrics.jsonl`, without damaged or truncated ones.

    Args:
        say: called with a sentence if lines are damaged.
    """
    lines, damaged = scan_lines(path)
    if damaged and say:
        say(f"{damaged} damaged lines of {path} are left out")
    return lines


def scan_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the intact lines of a `metrics.jsonl`, and the number of damaged ones."""
    lines: list[dict[str, Any]] = []
    damaged = 0
    *texts, unfinished = (path.read_bytes() if path.exists() else b"").split(b"\n")
    for text in [*texts, unfinished]:
        try:
            line = json.loads(text)
            sound = isinstance(line, dict) and isinstance(line.get("step"), int)
        except ValueError:  # of JSON, or of its encoding
            sound = False
        if sound:
            lines.append(line)
        elif text.strip() and text is not unfinished:
            damaged += 1
    return lines, damaged
