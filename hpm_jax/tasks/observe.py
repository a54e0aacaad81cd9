"""Monitors a model during training: metrics, and a picture of fixed images."""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from hpm_jax.config import Config
from hpm_jax.data.sources import Splits
from hpm_jax.evaluation.evaluator import Evaluator
from hpm_jax.evaluation.sanity import (
    check_images,
    check_labels_tell,
    check_teacher,
    check_training,
)
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.run.ahead import compile_ahead
from hpm_jax.run.digest import digest
from hpm_jax.run.loop import Training
from hpm_jax.run.processes import is_main
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import Timetable
from hpm_jax.step.state import TrainState
from hpm_jax.storage import write
from hpm_jax.visualize import clips, pictures
from hpm_jax.visualize.snapshot import snapshot
from hpm_jax.visualize.view import View, make_view

SPARSE = "the teacher sees one in {} frames of the grid, and its prediction stands until the next"

Draw = Callable[
    [np.ndarray, View, str, str], bytes
]  # (images, view, title, note) -> the bytes of a file


def make_observer(
    config: Config,
    model: MaskedAutoencoder,
    method: Method,
    splits: Splits,
    training: Training,
    facts: list[str],
) -> Callable[[TrainState], None]:
    """Builds `state -> None`, which evaluates, writes and prints a line, and draws pictures.

    Args:
        facts: sentences of the report; warnings are added to them.
    """
    devices, console = training.devices, training.console
    timetable = training.timetable
    evaluate = Evaluator(config, model, method, splits, devices, console.say)
    draw: dict[str, Draw] = {"png": pictures.draw}
    count = config.evaluation.pictures
    if config.data.frames > 1:
        draw, count = {"png": clips.draw_strip, "gif": clips.animate}, min(count, clips.CLIPS)
    images = evaluate.images[:count]
    view: Callable[..., View] = jax.jit(make_view(model, method), out_shardings=devices.replicated)
    if not training.goes_on:  # else a GPU would tune programs while it trains
        evaluate.compile_ahead(training.compiler, training.shapes)
        if len(images):
            view = compile_ahead(training.compiler, view, training.shapes, images, timetable.at(0))
    note, units = explain(method), "tubes" if method.unit.tube else "patches"

    def warn(sentences: Iterable[str]) -> None:
        for sentence in sentences:
            console.say(f"warning: {sentence}")
            facts.append(f"Warning: {sentence}")

    check = make_checks(config, evaluate, timetable)

    def observe(state: TrainState) -> None:
        step = int(state.step)
        epoch = timetable.epoch(step)
        baselines = evaluate.baselines(state) if step == 0 else {}  # while threads compile
        numbers = evaluate(state) | baselines
        training.writer.write(step, {"epoch": epoch} | numbers)
        console.say(f"epoch {epoch:<6.4g} " + summary(numbers))
        warn(check(state, numbers))
        if len(images):
            schedule = timetable.at(min(step, timetable.steps - 1))
            seen = jax.tree.map(np.asarray, view(state, images, schedule))
        if len(images) and is_main():
            hard = f"{schedule.n_hard} of {config.hidden_units} hidden {units} are hard"
            title = f"epoch {epoch:.4g}: {hard}"
            files = {kind: function(images, seen, title, note) for kind, function in draw.items()}
            for kind, file in files.items():
                write(training.workdir / "pictures" / f"step_{step:07d}.{kind}", file)
            text = snapshot(images, seen, step, epoch, title, note)
            write(training.workdir / "pictures" / f"step_{step:07d}.json", text)
            training.writer.write_picture(step, "pictures", files["png"])

    return observe


def make_checks(
    config: Config, evaluate: Evaluator, timetable: Timetable
) -> Callable[[TrainState, dict[str, float]], list[str]]:
    """Builds `(state, numbers) -> warnings`; each kind of warning is given once.

    Args:
        evaluate: the evaluator, which holds the fixed images.
    """
    said: set[str] = set()
    teacher: np.ndarray | None = None

    def found(state: TrainState, numbers: dict[str, float]) -> Iterator[tuple[str, Iterable[str]]]:
        nonlocal teacher
        step, before = int(state.step), teacher
        warm = timetable.epoch(step) > config.optimizer.warmup_epochs
        if "images" not in said and config.data.source != "synthetic":
            bank = evaluate.bank if evaluate.labelled else evaluate.images[:0]
            yield "images", check_images(evaluate.images, bank, config.data.mean, config.data.std)
        if step == 0 and evaluate.labelled and config.data.source != "synthetic":
            yield "labels", check_labels_tell(numbers, evaluate.bank_labels, evaluate.labels)
        if warm:
            yield "training", check_training(numbers)
        if state.teacher is not None:
            teacher = np.asarray(digest(state.teacher))
            rate = float(timetable.at(min(step, timetable.steps - 1)).teacher_rate)
            if before is not None and rate:
                yield "teacher", check_teacher(before, teacher, rate)

    def check(state: TrainState, numbers: dict[str, float]) -> list[str]:
        sentences: list[str] = []
        for kind, new in found(state, numbers):
            if kind not in said and (new := list(new)):
                sentences += new
                said.add(kind)
        said.add("images")
        return sentences

    return check


def explain(method: Method) -> str:
    """Returns an explanation of the reconstructed patches and the predicted losses of a picture."""
    stride = method.teacher.frame_stride
    return method.target.note + (f"; {SPARSE.format(stride)}" if stride > 1 else "")


def summary(numbers: dict[str, float]) -> str:
    """Formats the numbers of an evaluation in one line."""
    parts = []
    if "held_out/reconstruction" in numbers:  # missing if there are fewer images than devices
        parts.append(f"held-out loss {numbers['held_out/reconstruction']:.4f}")
    if "held_out/explained" in numbers:
        filled = numbers.get("filled/explained_interpolated")
        beside = "" if filled is None else f" (interpolation {filled:.1%})"
        parts.append(f"explained {numbers['held_out/explained']:.1%}{beside}")
    if "held_out/ranked_correctly" in numbers:
        beside = f" (contrast {numbers['held_out/contrast']:.1%})"
        parts.append(f"ranked {numbers['held_out/ranked_correctly']:.1%}{beside}")
    parts.append(f"RankMe {numbers['rank_me']:.1f}")
    for name, title in (("logistic", "logistic"), ("knn", "kNN")):
        if name in numbers:
            pixels = numbers.get(f"raw_pixels/{name}")
            beside = "" if pixels is None else f" (raw pixels {pixels:.1%})"
            parts.append(f"{title} {numbers[name]:.1%}{beside}")
    return "  ".join(parts)
