"""Checkpoints: Orbax saves the state in the background; the newest intact one is restored."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hpm_jax.errors import UserError
from hpm_jax.run.digest import digest, not_finite
from hpm_jax.run.library_log import hide_unraisable
from hpm_jax.run.processes import is_main, wait_for_all
from hpm_jax.step.guard import new_history
from hpm_jax.step.state import TrainState
from hpm_jax.storage import StorageError, as_path, is_local, move, reported, unavailable


class CheckpointError(UserError, RuntimeError):
    """An expected checkpoint cannot be read."""


class NotFiniteError(UserError, ArithmeticError):
    """A state contains NaN or infinite values."""


class SaveError(StorageError, CheckpointError):
    """A checkpoint cannot be written; earlier ones are intact."""


class Checkpoints:
    """The checkpoints of one run, by step, in `folder/<step>`."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        """Keeps the newest `keep` checkpoints."""
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
                # named, otherwise Orbax inspects the newest folder, which may be empty
                item_handlers=ocp.StandardCheckpointHandler(),
            )

    def save(self, state: TrainState) -> None:
        """Starts to write `state`; returns when it has been copied from the devices.

        Raises:
            SaveError: if this state, or the previous one in the background, cannot be written.
            NotFiniteError: if the state contains NaN or infinity; nothing is written.
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
        """Fails if the disk is too small, before anything is written."""
        if is_local(self.folder):
            total, _, free = shutil.disk_usage(self.folder)
            needed = sum(array.nbytes for array in jax.tree.leaves(state))
            if total and free < needed:  # some network disks do not report their size
                raise OSError(errno.ENOSPC, "")

    def restore(
        self, abstract: TrainState, say: Callable[[str], None], frozen: Any = None
    ) -> TrainState | None:
        """Returns the newest readable state, placed as in `abstract`; None without checkpoints.

        A damaged checkpoint is set aside, never deleted, and the previous one is used. A checkpoint
        whose arrays do not match their digest counts as damaged.

        Args:
            frozen: frozen weights by slot, which are not in checkpoints.

        Raises:
            CheckpointError: if no checkpoint can be read, or the disk fails temporarily; in the
                latter case nothing is set aside.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state = self._read(step, abstract)
            except Exception as error:  # readers raise many kinds for a damaged file
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
            if getattr(abstract, "history", None) is not None and "history" not in state:
                place = jax.tree.map(lambda x: x.sharding, abstract.history)
                state["history"] = jax.device_put(new_history(), place)
            return abstract.replace(**state)
        if damaged:
            listed = "\n  ".join(f"step {bad}: {_first_line(reason)}" for bad, reason in damaged)
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read:\n  {listed}\n"
                "Nothing was changed there. Start afresh with another --workdir."
            )
        return None

    def _read(self, step: int, abstract: TrainState) -> dict[str, Any]:
        """Reads and checks the parts of one checkpoint; retries if the disk fails temporarily."""
        wanted = as_saved(abstract)
        there = (self.folder / str(step) / "default" / "_METADATA").read_text()
        asked = set(wanted)
        if "('history'" in there:  # gradient history: always saved, read only if requested
            place = abstract.step.sharding
            scalar = jax.ShapeDtypeStruct((), np.float32, sharding=place)
            wanted["history"] = jax.tree.map(lambda _: scalar, new_history())
        else:
            wanted.pop("history", None)
        if f"('{DIGEST}',)" in there:  # earlier versions saved no digest
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
        return {name: part for name, part in state.items() if name in asked}

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
        """Waits until everything is on disk; raises `SaveError` on failure."""
        with reported(self.folder, SaveError):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and ends the background threads."""
        with reported(self.folder, SaveError):
            self._manager.close()


def check_finite(state: TrainState) -> None:
    """Raises a `NotFiniteError` if trained arrays contain NaN or infinity."""
    parts = as_saved(state)
    if broken := not_finite({name: parts[name] for name in parts if name not in MAY_BE_UNKNOWN}):
        raise NotFiniteError(
            f"after step {int(state.step)} {broken[0]}"
            f"{f' and {len(broken) - 1} more' if len(broken) > 1 else ''} holds numbers that are "
            "not finite: nothing of that state is saved, and checkpoints from before are whole. "
            "Lower config.optimizer.base_learning_rate, clip harder with "
            "config.optimizer.clip_norm, or compute with config.model.dtype=float32: "
            "--config.run.accept_new_options=True goes on from the newest one with that."
        )


MAY_BE_UNKNOWN = ("scores", "plugs")  # NaN before the first prediction
DIGEST = "digest"  # of the arrays of a checkpoint, stored beside them
PAUSES = (0.5, 2.0, 8.0)  # seconds between attempts to read from a failing disk
LATER = ("plugs", "frozen", "history")  # parts of a state that earlier versions did not have


def as_saved(state: Any) -> dict[str, Any]:
    """Returns the parts of a state by name, as stored in checkpoints of every version.

    Frozen weights are not stored: they come from their own file and never change.
    """
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    parts.pop("frozen", None)
    return {name: x for name, x in parts.items() if x is not None or name not in LATER}


def _say_failures_once() -> None:
    """Suppresses the tracebacks, one per array, of a failing save or of a damaged checkpoint.

    The error is raised as well.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    hide_unraisable("Event loop is closed")
    # reads of the other arrays that had failed before the first error was raised
    hide_unraisable("Encountered error while reading array index")


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and ("orbax" in record.pathname or "asyncio" in record.pathname))


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextlib.contextmanager
def checkpoints(folder: str | os.PathLike[str], keep: int):
    """Yields `Checkpoints` that are closed, and so complete, however the block ends."""
    manager = Checkpoints(folder, keep)
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(SaveError):  # the block's own error is more informative
            manager.close()
        raise
    manager.close()
