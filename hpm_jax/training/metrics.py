"""Every number of a run, in `metrics.jsonl` and for TensorBoard."""

import json
import os
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from hpm_jax.options import ConfigError
from hpm_jax.training.processes import is_main


class MetricsWriter:
    """Appends numbers by step; a run that goes on from `step` rewrites what came after it."""

    def __init__(self, workdir: str | Path, step: int = 0, wandb: str = ""):
        """`wandb` is a project of Weights & Biases; "" for none."""
        self._wandb = _start_wandb(wandb, Path(workdir)) if wandb else None
        self.path = Path(workdir) / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= step] if step else []
        # written beside and moved into place: a kill in between loses nothing
        beside = self.path.with_suffix(".new")
        beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(beside, self.path)
        self._file = self.path.open("a")
        self._events = EventFileWriter(str(Path(workdir) / "tensorboard"))
        if step:
            # tells TensorBoard to forget what a killed run had written after this step
            log = SessionLog(status=SessionLog.START)
            self._add_event(step=step + 1, session_log=log)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One line `{"step": step, ...}`, and a scalar each."""
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

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """A PNG file, for TensorBoard."""
        image = Summary.Image(encoded_image_string=png, colorspace=3)
        self._add_event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def _add_event(self, **fields) -> None:
        self._events.add_event(Event(wall_time=time.time(), **fields))

    def close(self) -> None:
        """Everything to disk."""
        self._file.close()
        self._events.close()
        if self._wandb:
            self._wandb.finish()


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


class NoWriter:
    """What the other processes of a run have for a writer: they read, and write nothing."""

    def __init__(self, workdir: str | Path):
        self.path = Path(workdir) / "metrics.jsonl"

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Nothing."""

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_writer(workdir: str | Path, step: int, wandb: str) -> MetricsWriter | NoWriter:
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
