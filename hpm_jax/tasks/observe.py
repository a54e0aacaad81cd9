"""Looks at a model from outside now and then: numbers, and a picture of fixed images."""

from collections.abc import Callable

import jax
import numpy as np

from hpm_jax.config import Config
from hpm_jax.data.sources import Splits
from hpm_jax.evaluation.evaluator import Evaluator
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.run.loop import Training
from hpm_jax.run.processes import is_main
from hpm_jax.step.method import Method
from hpm_jax.step.state import TrainState
from hpm_jax.storage import write
from hpm_jax.visualize import clips, pictures
from hpm_jax.visualize.view import View, make_view

SPARSE = "the teacher sees one in {} frames of the grid, and its prediction stands until the next"

Draw = Callable[[np.ndarray, View, str, str], bytes]  # images, view, title, note to a file


def make_observer(
    config: Config,
    model: MaskedAutoencoder,
    method: Method,
    splits: Splits,
    training: Training,
) -> Callable[[TrainState], None]:
    """Builds `state -> None`, which measures, writes a line, draws pictures, and says so."""
    devices, console, writer = training.devices, training.console, training.writer
    timetable = training.timetable
    evaluate = Evaluator(config, model, method, splits, devices, console.say)
    draw: dict[str, Draw] = {"png": pictures.draw}
    count = config.evaluation.pictures
    if config.data.frames > 1:
        draw, count = {"png": clips.draw_strip, "gif": clips.animate}, min(count, clips.CLIPS)
    images = evaluate.images[:count]
    view = jax.jit(make_view(model, method), out_shardings=devices.replicated)
    note, units = explain(method), "tubes" if method.unit.tube else "patches"

    def observe(state: TrainState) -> None:
        step = int(state.step)
        epoch = timetable.epoch(step)
        numbers = evaluate(state) | (evaluate.raw_pixels() if step == 0 else {})
        writer.write(step, {"epoch": epoch} | numbers)
        console.say(f"epoch {epoch:<6.4g} " + summary(numbers))
        if len(images):
            schedule = timetable.at(min(step, timetable.steps - 1))
            seen = jax.tree.map(np.asarray, view(state, images, schedule))
        if len(images) and is_main():
            hard = f"{schedule.n_hard} of {config.hidden_units} hidden {units} are hard"
            title = f"epoch {epoch:.4g}: {hard}"
            files = {kind: function(images, seen, title, note) for kind, function in draw.items()}
            for kind, file in files.items():
                write(training.workdir / "pictures" / f"step_{step:07d}.{kind}", file)
            writer.write_picture(step, "pictures", files["png"])

    return observe


def explain(method: Method) -> str:
    """How the rebuilt patches of a picture, and the predicted losses, are to be read."""
    stride = method.teacher.frame_stride
    return method.target.note + (f"; {SPARSE.format(stride)}" if stride > 1 else "")


def summary(numbers: dict[str, float]) -> str:
    """The numbers of an evaluation in one line."""
    parts = []
    if "held_out/reconstruction" in numbers:  # not where there are fewer images than devices
        parts.append(f"held-out loss {numbers['held_out/reconstruction']:.4f}")
    if "held_out/ranked_correctly" in numbers:
        parts.append(f"ranked {numbers['held_out/ranked_correctly']:.1%}")
    parts.append(f"RankMe {numbers['rank_me']:.1f}")
    for name, title in (("logistic", "logistic"), ("knn", "kNN")):
        if name in numbers:
            pixels = numbers.get(f"raw_pixels/{name}")
            beside = "" if pixels is None else f" (raw pixels {pixels:.1%})"
            parts.append(f"{title} {numbers[name]:.1%}{beside}")
    return "  ".join(parts)
