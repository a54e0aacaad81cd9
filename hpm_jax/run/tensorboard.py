"""Writes numbers and pictures of a run for TensorBoard, an optional library.

TensorBoard's record writer is used without its `EventFileWriter`, which writes in a thread: a full
disk would be detected one write late, with a traceback beside the message.
"""

import os
import platform
import time
from pathlib import Path
from typing import Any

from hpm_jax.extras import import_extra
from hpm_jax.storage import reported


class EventWriter:
    """Appends to its own event file in `folder`, which is created.

    Every method raises `StorageError` if something cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0):
        """Opens the file; a run that resumes from `step` makes TensorBoard discard later events.

        Raises:
            ConfigError: if TensorBoard is not installed.
        """
        self._folder = folder
        what = f"{folder.name}/ in the workdir"
        events = import_extra("tensorboard.compat.proto.event_pb2", "tensorboard", what)
        self._event, log = events.Event, events.SessionLog
        summaries = import_extra("tensorboard.compat.proto.summary_pb2", "tensorboard", what)
        self._summary = summaries.Summary
        writers = import_extra("tensorboard.summary.writer.record_writer", "tensorboard", what)
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        with reported(folder):
            folder.mkdir(exist_ok=True)
            self._file = writers.RecordWriter((folder / name).open("ab"))
        self._add(file_version="brain.Event:2")
        if step:
            self._add(step=step + 1, session_log=log(status=log.START))

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """Writes a scalar for each number."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in numbers.items()
            if isinstance(value, int | float)
        ]
        self._add(step=step, summary=self._summary(value=values))

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Writes a PNG file."""
        image = self._summary.Image(encoded_image_string=png, colorspace=3)
        value = self._summary.Value(tag=name, image=image)
        self._add(step=step, summary=self._summary(value=[value]))

    def _add(self, **fields) -> None:
        with reported(self._folder):
            self._file.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with reported(self._folder):
            self._file.close()
