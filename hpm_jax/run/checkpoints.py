"""Checkpoints: Orbax saves the whole state in the background; the newest whole one is found."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hpm_jax.errors import UserError
from hpm_jax.run.digest import digest, not_finite
from hpm_jax.run.processes import is_main, wait_for_all
from hpm_jax.step.state import TrainState
from hpm_jax.storage import StorageError, as_path, is_local, move, reported, unavailable


class CheckpointError(UserError, RuntimeError):
    """No checkpoint can be read where there should be one."""


class NotFiniteError(UserError, ArithmeticError):
    """A state that is no longer made of numbers."""


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
                # named, or Orbax asks the newest folder, which may be empty
                item_handlers=ocp.StandardCheckpointHandler(),
            )

    def save(self, state: TrainState) -> None:
        """Starts to write `state`; returns as soon as it has been copied off the devices.

        Raises:
            SaveError: where this state, or the one before in the background, cannot be written.
            NotFiniteError: where a number of the state is none; nothing of it is written.
        """
        step = int(state.step)
        check_finite(state)
        with reported(self.folder, SaveError):
            if step not in self._manager.all_steps():
                self._check_room(state)
                parts = as_saved(state)
                parts[DIGEST] = digest(parts)
                self._manager.save(step, args=ocp.args.StandardSave(parts))

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

        A damaged checkpoint is set aside, never deleted, and the one before it is taken. One whose
        arrays are not those that were saved, by their digest, counts as damaged.

        Args:
            frozen: by slot, the weights that never learn, which are in no checkpoint.

        Raises:
            CheckpointError: where there are checkpoints and none can be read, or where the disk
                does not serve: then nothing is set aside.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state = self._read(step, abstract)
            except Exception as error:  # whatever a damaged file makes the readers raise
                if unavailable(error):
                    raise CheckpointError(
                        f"checkpoint {step} in {self.folder} cannot be read now "
                        f"({_first_line(error)}): nothing was changed, and the same command goes "
                        "on when the disk or the bucket serves again"
                    ) from error
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

    def _read(self, step: int, abstract: TrainState) -> dict[str, Any]:
        """The parts of one checkpoint, checked; tried again where the disk does not serve."""
        wanted = as_saved(abstract)
        there = (self.folder / str(step) / "default" / "_METADATA").read_text()
        if f"('{DIGEST}',)" in there:  # those of earlier versions have none
            arrays = len(jax.tree.leaves(wanted))
            place = abstract.step.sharding
            wanted[DIGEST] = jax.ShapeDtypeStruct((arrays,), np.uint32, sharding=place)
        for pause in (*PAUSES, None):
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
                break
            except Exception as error:
                if pause is None or not unavailable(error):
                    raise
                time.sleep(pause)
        if DIGEST in wanted:
            saved = np.asarray(state.pop(DIGEST))
            changed = np.flatnonzero(saved != np.asarray(digest(state)))
            if len(changed):
                names = [
                    jax.tree_util.keystr(x) for x, _ in jax.tree_util.tree_leaves_with_path(state)
                ]
                raise ValueError(f"{names[changed[0]]} is not what was saved: its checksum differs")
        return state

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


def check_finite(state: TrainState) -> None:
    """Raises a `NotFiniteError` where what is trained holds what is no number."""
    parts = as_saved(state)
    if broken := not_finite({name: parts[name] for name in parts if name not in MAY_BE_UNKNOWN}):
        raise NotFiniteError(
            f"after step {int(state.step)} {broken[0]}"
            f"{f' and {len(broken) - 1} more' if len(broken) > 1 else ''} holds numbers that are "
            "not finite: nothing of that state is saved, and checkpoints from before are whole. "
            "Lower config.optimizer.base_learning_rate, clip harder with "
            "config.optimizer.clip_norm, or compute with config.model.dtype=float32."
        )


MAY_BE_UNKNOWN = ("scores", "plugs")  # NaN, where nothing has been said yet
DIGEST = "digest"  # of the arrays of a checkpoint, beside them
PAUSES = (0.5, 2.0, 8.0)  # seconds before a disk that does not serve is asked again
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
