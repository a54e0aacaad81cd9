"""Handles divergence: the run ends, skips the update, or goes back to a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpm_jax.config import ConfigError, Guard
from hpm_jax.data.records import Records
from hpm_jax.errors import UserError
from hpm_jax.run.evidence import describe_tensors, keep_evidence
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write
from hpm_jax.text_files import read_json

Numbers = dict[str, float]
Batch = dict[str, np.ndarray]


class TrainingDiverged(UserError, ArithmeticError):
    """The loss is not finite, or the gradient norm is far above its running mean."""


class GoBack(Exception):
    """The run has to go back to its last checkpoint; an internal signal."""


class Divergence:
    """Handles each bad update by `config.guard`, and records it in the workdir.

    `diverged/steps.json` lists the skipped updates, so that a restarted run, on any machine,
    skips the same ones.
    """

    def __init__(
        self,
        guard: Guard | None,
        remedy: str,
        workdir: Path,
        records: Records,
        say: Callable[[str], None],
    ):
        """Takes a `guard`, None for a task that cannot skip updates: it stops with `remedy`."""
        self.guard, self.remedy = guard or Guard(), remedy
        self.workdir, self.records, self.say = workdir, records, say
        self._file = workdir / "diverged" / "steps.json"
        advice = "put a copy of it back, or delete it: then no batch is passed over"
        there = read_json(self._file, ConfigError, advice) if self._file.exists() else {}
        self.bad: list[int] = there.get("bad", [])  # steps, from 1, that have diverged
        self._passed: set[int] = set(there.get("passed_over", []))

    def passes_over(self, step: int) -> bool:
        """Whether the batch of a step, from 1, is skipped after the run went back."""
        return step in self._passed

    def __call__(self, step: int, numbers: Numbers, batch: Batch, state: Any) -> None:
        """Handles a bad update.

        Args:
            step: number of the step, from 1.
            numbers: metrics and schedule of the step.
            batch: the batch of the step; see `keep_evidence`.
            state: the newest state.

        Raises:
            TrainingDiverged: by policy "stop", or if `guard.most` is reached.
            GoBack: by policy "go_back".
        """
        guard = self.guard
        spike = np.isfinite([numbers["loss"], numbers.get("gradient_norm", 0.0)]).all()
        what = (
            f"the gradient's norm is {numbers['gradient_norm']:.3g} at step {step}, more than "
            f"{guard.spike:g} times its running mean, or its update is not finite"
            if spike
            else f"the loss is {numbers['loss']} at step {step}"
        )
        kept = keep_evidence(
            self.workdir, step, numbers, batch, self.records, describe_tensors(state)
        )
        if step not in self.bad:
            self.bad.append(step)
        if guard.policy == "go_back":
            self._passed.update(range(max(step - guard.batches, 0) + 1, step + 1))
        if is_main():
            found = {"bad": self.bad, "passed_over": sorted(self._passed)}
            write(self._file, json.dumps(found) + "\n")
        if guard.policy == "stop" or len(self.bad) > guard.most:
            often = f" It is the {len(self.bad)}th of the run." if len(self.bad) > 1 else ""
            raise TrainingDiverged(
                f"{what}; its batch is in {kept}.{often} "
                f"Checkpoints from before are whole. {self.remedy}"
            )
        if guard.policy == "go_back":
            self.say(f"{what}: going back to the last checkpoint; its batch is in {kept}")
            raise GoBack
        self.say(f"{what}: this update is skipped; its batch is in {kept}")


def way_out(optimizer: Any) -> str:
    """Returns advice for a loss that is not finite, with options to add to the command."""
    if not hasattr(optimizer, "base_learning_rate"):  # a probe's state depends on its sweep
        return "Start afresh with another --workdir and lower config.optimizer.base_learning_rates."
    name = "absolute" if optimizer.absolute_learning_rate else "base"
    half = getattr(optimizer, f"{name}_learning_rate") / 2
    return (
        "Go on from the newest one with half the learning rate: add "
        f"--config.optimizer.{name}_learning_rate={half:g} --config.run.accept_new_options=True "
        "to the command. Or clip harder with --config.optimizer.clip_norm=1.0, or compute with "
        "--config.model.dtype=float32; these need --config.run.accept_new_options=True as well. Or "
        "let the same command pass over such batches with --config.guard.policy=go_back (or skip)."
    )
