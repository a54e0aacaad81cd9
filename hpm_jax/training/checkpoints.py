"""Checkpoints: Orbax saves the whole state in the background; the newest whole one is found."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import orbax.checkpoint as ocp

from hpm_jax.training.processes import is_main, wait_for_all
from hpm_jax.training.state import TrainState


class CheckpointError(RuntimeError):
    """No checkpoint can be read where there should be one."""


class Checkpoints:
    """The checkpoints of one run, by step, in `folder/<step>`."""

    def __init__(self, folder: str | Path, keep: int = 2):
        """`keep` is how many of the newest stay."""
        self.folder = Path(folder)
        self._manager = ocp.CheckpointManager(
            self.folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                enable_async_checkpointing=True,
                create=True,
            ),
        )

    def save(self, state: TrainState) -> None:
        """Starts to write `state`; returns as soon as it has been copied off the devices."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, abstract: TrainState, say: Callable[[str], None]) -> TrainState | None:
        """The newest state that can be read, on the devices that `abstract` names; None at first.

        A damaged checkpoint is set aside, never deleted, and the one before it is taken.

        Raises:
            CheckpointError: where there are checkpoints and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # whatever a damaged file makes the readers raise
                damaged.append((step, error))
                continue
            for bad, reason in damaged:
                self._set_aside(bad)
                say(
                    f"checkpoint {bad} is damaged ({_first_line(reason)}): set aside in "
                    f"{self._aside}, going on from step {step}"
                )
            return state
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
            self._aside.mkdir(parents=True, exist_ok=True)
            target = self._aside / str(step)
            number = 1
            while target.exists():
                number += 1
                target = self._aside / f"{step}.{number}"
            shutil.move(str(self.folder / str(step)), str(target))
        wait_for_all(f"checkpoint {step} is set aside")
        self._manager.reload()

    def wait(self) -> None:
        """Until everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self._manager.close()


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextlib.contextmanager
def checkpoints(folder: str | Path, keep: int):
    """`Checkpoints` that are closed, and so whole, however the block ends."""
    manager = Checkpoints(folder, keep)
    try:
        yield manager
    finally:
        manager.close()
