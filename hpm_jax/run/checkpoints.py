"""Checkpoints: Orbax saves the whole state in the background; the newest whole one is found."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from hpm_jax.errors import UserError
from hpm_jax.run.processes import is_main, wait_for_all
from hpm_jax.step.state import TrainState
from hpm_jax.storage import StorageError, as_path, is_local, move, reported


class CheckpointError(UserError, RuntimeError):
    """No checkpoint can be read where there should be one."""


class SaveError(StorageError, CheckpointError):
    """A checkpoint cannot be written; those before it are whole."""


class Checkpoints:
    """The checkpoints of one run, by step, in `folder/<step>`."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        """`keep` is how many of the newest stay."""
        self.folder = as_path(folder)
        _say_failures_once()
        with reported(self.folder, SaveError):
            self._manager = ocp.CheckpointManager(
                self.folder.resolve() if is_local(self.folder) else self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                    enable_async_checkpointing=True,
                    create=True,
                ),
            )

    def save(self, state: TrainState) -> None:
        """Starts to write `state`; returns as soon as it has been copied off the devices.

        Raises:
            SaveError: where this state, or the one before in the background, cannot be written.
        """
        step = int(state.step)
        with reported(self.folder, SaveError):
            if step not in self._manager.all_steps():
                self._check_room(state)
                self._manager.save(step, args=ocp.args.StandardSave(as_saved(state)))

    def _check_room(self, state: TrainState) -> None:
        """Fails where the disk is too small, before half of a checkpoint has been written."""
        if is_local(self.folder):
            total, _, free = shutil.disk_usage(self.folder)
            needed = sum(array.nbytes for array in jax.tree.leaves(state))
            if total and free < needed:  # some network disks say nothing of their size
                raise OSError(errno.ENOSPC, "")

    def restore(
        self, abstract: TrainState, say: Callable[[str], None], frozen: Any = None
    ) -> TrainState | None:
        """The newest state that can be read, on the devices that `abstract` names; None at first.

        A damaged checkpoint is set aside, never deleted, and the one before it is taken.

        Args:
            frozen: by slot, the weights that never learn, which are in no checkpoint.

        Raises:
            CheckpointError: where there are checkpoints and none can be read.
        """
        wanted = as_saved(abstract)
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
            except Exception as error:  # whatever a damaged file makes the readers raise
                damaged.append((step, error))
                continue
            for bad, reason in damaged:
                self._set_aside(bad)
                say(
                    f"checkpoint {bad} is damaged ({_first_line(reason)}): set aside in "
                    f"{self._aside}, going on from step {step}"
                )
            if getattr(abstract, "frozen", None) is not None:
                place = jax.tree.map(lambda x: x.sharding, abstract.frozen)
                state["frozen"] = jax.device_put(frozen, place)
            return abstract.replace(**state)
        if damaged:
            listed = "\n  ".join(f"step {bad}: {_first_line(reason)}" for bad, reason in damaged)
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read:\n  {listed}\n"
                "Nothing was changed there. Start afresh with another --workdir."
            )
        return None

    @property
    def _aside(self) -> Path:
        return self.folder.parent / "damaged_checkpoints"

    def _set_aside(self, step: int) -> None:
        if is_main():
            target = self._aside / str(step)
            number = 1
            while target.exists():
                number += 1
                target = self._aside / f"{step}.{number}"
            move(self.folder / str(step), target)
        wait_for_all(f"checkpoint {step} is set aside")
        self._manager.reload()

    def wait(self) -> None:
        """Until everything is on disk; raises `SaveError` where that cannot be."""
        with reported(self.folder, SaveError):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits likewise, and ends the background threads."""
        with reported(self.folder, SaveError):
            self._manager.close()


LATER = ("plugs", "frozen")  # parts of a state that earlier versions did not have


def as_saved(state: Any) -> dict[str, Any]:
    """The parts of a state by name, as checkpoints of every version have them.

    Frozen weights are in none: they come from their own file, and never change.
    """
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    parts.pop("frozen", None)
    return {name: x for name, x in parts.items() if x is not None or name not in LATER}


def _say_failures_once() -> None:
    """Leaves out the tracebacks, one for each array, from the threads of a save that fails.

    What has gone wrong is raised as well.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and ("orbax" in record.pathname or "asyncio" in record.pathname))


def _unraisable(found: Any) -> None:
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextlib.contextmanager
def checkpoints(folder: str | os.PathLike[str], keep: int):
    """`Checkpoints` that are closed, and so whole, however the block ends."""
    manager = Checkpoints(folder, keep)
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(SaveError):  # the block's own error says more
            manager.close()
        raise
    manager.close()
