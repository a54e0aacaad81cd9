"""Every number of a run, in `metrics.jsonl` and for TensorBoard.

TensorBoard's record writer is used without its `EventFileWriter`, which writes in a thread: a full
disk would be known one write late, and print a traceback beside the message.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from hpm_jax.config import ConfigError
from hpm_jax.run.processes import is_main
from hpm_jax.storage import as_path, is_local, reported, write

FLUSH_SECONDS = 60.0  # between copies to a bucket


class MetricsWriter:
    """Appends numbers by step; a run that goes on from `step` rewrites what came after it.

    Nothing can be appended to in a bucket: there, the files grow in a temporary folder and are
    copied as a whole now and then.

    Every method raises `StorageError` where something cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike[str], step: int = 0, wandb: str = ""):
        """`wandb` is a project of Weights & Biases; "" for none."""
        self._workdir = as_path(workdir)
        self._wandb = _start_wandb(wandb, self._workdir) if wandb else None
        self.path = self._workdir / "metrics.jsonl"
        if not step:
            keep_aside(self.path)
        kept = [line for line in read_lines(self.path) if line["step"] <= step] if step else []
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
            (self._folder / "tensorboard").mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
            self._events = RecordWriter((self._folder / "tensorboard" / name).open("ab"))
        self._add_event(file_version="brain.Event:2")
        if step:
            # tells TensorBoard to forget what a killed run had written after this step
            log = SessionLog(status=SessionLog.START)
            self._add_event(step=step + 1, session_log=log)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One line `{"step": step, ...}`, and a scalar each."""
        with reported(self._here):
            self._file.write(json.dumps({"step": step} | numbers) + "\n")
            self._file.flush()
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in numbers.items()
            if isinstance(value, int | float)
        ]
        self._add_event(step=step, summary=Summary(value=values))
        if self._wandb:
            self._wandb.log(numbers, step=step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """A PNG file, for TensorBoard."""
        image = Summary.Image(encoded_image_string=png, colorspace=3)
        self._add_event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def _add_event(self, **fields) -> None:
        with reported(self._folder / "tensorboard"):
            self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self._events.flush()

    def flush(self) -> None:
        """Everything so far to where it stays: in a bucket, each file is written anew."""
        self._flushed = time.monotonic()
        if self._spool:
            for file in sorted(self._folder.rglob("*.*")):
                write(self._workdir / file.relative_to(self._folder), file.read_bytes())

    def close(self) -> None:
        """Everything to where it stays."""
        self.flush()
        with reported(self._here):
            self._file.close()
            self._events.close()
        if self._spool:
            self._spool.cleanup()
        if self._wandb:
            self._wandb.finish()


def keep_aside(path: Path) -> None:
    """Moves the lines of an earlier run, whose checkpoints are gone, to `metrics.<n>.jsonl`."""
    text = path.read_text() if path.exists() else ""
    if not text.strip():
        return
    number = 1
    while (there := path.with_name(f"metrics.{number}.jsonl")).exists():
        number += 1
    write(there, text)


def _start_wandb(project: str, workdir: Path) -> Any:
    """A run of Weights & Biases named after the workdir, which a later start goes on with."""
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            f'config.run.wandb = {project!r} needs the extra "wandb": pip install wandb'
        ) from None
    name = workdir.resolve().name
    config = json.loads((workdir / "config.json").read_text())
    return wandb.init(project=project, id=name, name=name, config=config, resume="allow")


class NoWriter(MetricsWriter):
    """What the other processes of a run have for a writer: they read, and write nothing."""

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


def open_writer(workdir: str | os.PathLike[str], step: int, wandb: str) -> MetricsWriter:
    """The writer of this process: the main one of a run writes."""
    return MetricsWriter(workdir, step, wandb) if is_main() else NoWriter(workdir)


def read_lines(path: Path) -> list[dict]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
