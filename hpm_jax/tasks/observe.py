"""Looks at a model from outside now and then: numbers, and a picture of fixed images."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from hpm_jax.data.sources import Splits
from hpm_jax.evaluation.evaluator import Evaluator
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.options import Config
from hpm_jax.training.console import Console
from hpm_jax.training.devices import Devices
from hpm_jax.training.method import Method
from hpm_jax.training.metrics import MetricsWriter
from hpm_jax.training.processes import is_main
from hpm_jax.training.schedules import PretrainTimetable
from hpm_jax.training.state import TrainState
from hpm_jax.visualize.pictures import draw, make_view

NORMALIZED = (
    "rebuilt: visible patches are pasted; hidden ones get their contrast and brightness back from "
    "the true patch, since the target is normalised patch by patch"
)
RAW = "rebuilt: visible patches are pasted, hidden ones are as the model says"


def make_observer(
    config: Config,
    workdir: Path,
    model: MaskedAutoencoder,
    method: Method,
    splits: Splits,
    devices: Devices,
    timetable: PretrainTimetable,
    writer: MetricsWriter,
    console: Console,
) -> Callable[[TrainState], None]:
    """Builds `state -> None`, which measures, writes a line, draws a picture, and says so."""
    evaluate = Evaluator(config, model, method, splits, devices, console.say)
    images = evaluate.images[: config.evaluation.pictures]
    view = jax.jit(make_view(model, method), out_shardings=devices.replicated)
    note = NORMALIZED if config.target == "normalized_pixels" else RAW

    def observe(state: TrainState) -> None:
        step = int(state.step)
        epoch = timetable.epoch(step)
        numbers = evaluate(state.params)
        writer.write(step, {"epoch": epoch} | numbers)
        console.say(f"epoch {epoch:<6.4g} " + summary(numbers))
        if len(images):
            n_hard = timetable.at(min(step, timetable.steps - 1)).n_hard
            seen = jax.tree.map(np.asarray, view(state, images, n_hard))
        if len(images) and is_main():
            title = f"epoch {epoch:.4g}: {n_hard} of {timetable.hidden} hidden patches are hard"
            png = draw(images, seen, title, note)
            (workdir / "pictures" / f"step_{step:07d}.png").write_bytes(png)
            writer.write_picture(step, "pictures", png)

    return observe


def summary(numbers: dict[str, float]) -> str:
    """The numbers of an evaluation in one line."""
    parts = []
    if "held_out/reconstruction" in numbers:  # not where there are fewer images than devices
        parts.append(f"held-out loss {numbers['held_out/reconstruction']:.4f}")
    if "held_out/ranked_correctly" in numbers:
        parts.append(f"ranked {numbers['held_out/ranked_correctly']:.1%}")
    parts.append(f"RankMe {numbers['rank_me']:.1f}")
    if "knn" in numbers:
        parts.append(f"kNN {numbers['knn']:.1%}")
    return "  ".join(parts)
