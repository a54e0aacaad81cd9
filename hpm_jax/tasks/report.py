"""Evaluates a pre-trained encoder in a table of probes: read it from top to bottom."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.config import Report
from hpm_jax.config.inherit import finetune_config
from hpm_jax.convert.read import starting_weights
from hpm_jax.convert.weights import Weights, random_weights
from hpm_jax.data.sources import SOURCES, Records, Splits
from hpm_jax.evaluation import heads
from hpm_jax.evaluation.checks import check_finite_features
from hpm_jax.evaluation.feature_file import (
    SplitFeatures,
    origin,
    read_features,
    write_features,
)
from hpm_jax.evaluation.features import FeatureExtractor, extract_pixels, pool
from hpm_jax.evaluation.few_shot import few_shot_accuracy
from hpm_jax.evaluation.knn import knn_accuracies
from hpm_jax.evaluation.logistic import logistic_accuracy, standardised
from hpm_jax.evaluation.probe_features import probe_accuracy
from hpm_jax.evaluation.standardised import best_logistic
from hpm_jax.evaluation.standardised import knn as knn_told
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices, all_devices
from hpm_jax.run.metrics import read_lines
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.storage import write
from hpm_jax.tasks.data import check_labels
from hpm_jax.tasks.finetune import finetune
from hpm_jax.tasks.finish import command
from hpm_jax.visualize.report_page import write_report_page

EXPLANATION = (
    "Settings are chosen on held-out training images, and the test images are met once. "
    "Images are centre crops, without augmentation; fine-tuning augments."
)


class Row(NamedTuple):
    """One row of the table."""

    probe: str  # a name in `config.probes.names`
    title: str
    accuracy: float
    spread: float | None  # standard deviation, if there are several draws
    note: str
    top5: float | None = None  # of kNN


class Split(NamedTuple):
    """The features and labels of a split."""

    features: np.ndarray
    labels: np.ndarray


def report(config: Report, workdir: str | Path) -> int:
    """Measures an encoder on its own labelled images and writes `report.md`, `.html` and `.json`.

    Rows that are already in the workdir's `report.json` are not measured again.

    Args:
        config: from `hpm_jax.config.freeze`, completed by `hpm_jax.config.inherit`.
        workdir: folder for the table, and for the fine-tuning run if requested.

    Returns:
        The exit code of the command.
    """
    console = Console()
    devices = all_devices()
    splits = SOURCES[config.data.source](config.data)
    check_labels(splits)
    weights = starting_weights(config.init_from, config.weights, config.seed)
    workdir = open_workdir(workdir, config)
    facts = [
        f"{config.weights} weights of {config.init_from}: width {weights.architecture.width}, "
        f"{weights.architecture.depth} blocks",
        f"features: {config.features.pool} after block {config.features.block}, "
        f"{' x '.join(map(str, config.data.image_size))} pixels, {config.features.dtype}",
        f"{len(splits.train)} training images, {len(splits.test)} test images, "
        f"{len(splits.classes)} classes, on {devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))
    rows = _read(workdir)
    wanted = [name for name in config.probes.names if name not in {row.probe for row in rows}]

    # --- frozen features, computed once for all probes, or read from a file
    def pooled(split: Split) -> Split:
        features: Any = split.features  # on the host
        return Split(np.asarray(pool(features, config.features.pool)), split.labels)

    if wanted:
        how = "tokens" if "attentive" in wanted else config.features.pool
        features = load_features(config, weights, splits, devices, how, console.say)
        facts.extend(f"left out, unreadable: {name}" for name in features.unread)
        everything = (
            Split(features.train, features.train_labels),
            Split(features.test, features.test_labels),
        )
        vectors = tuple(map(pooled, everything)) if how == "tokens" else everything
    for name in wanted:
        began = time.perf_counter()
        train, test = everything if name == "attentive" else vectors
        if name == "baselines":
            found = baselines(config, weights, splits, devices)
        else:
            found = MEASURES[name](config, train, test)
        for row in found:
            rows.append(row)
            console.say(_line(row))
        console.say(f"{name} took {time.perf_counter() - began:.0f} s")
        _write(workdir, config, rows, facts)

    # --- fine-tuning
    if config.finetune.epochs:
        code = finetune(finetune_config(config), workdir / "finetune")
        if code:
            return code
        lines = read_lines(workdir / "finetune" / "metrics.jsonl")
        top1 = [line["top1"] for line in lines if "top1" in line][-1]
        rows = [row for row in rows if row.probe != "finetune"]
        note = f"{config.finetune.epochs} epochs, the last one's"
        rows.append(Row("finetune", "fine-tuning", top1, None, note))
    _write(workdir, config, rows, facts)
    console.say(f"done: read {workdir / 'report.md'}")
    return 0


def load_features(
    config: Report,
    weights: Weights,
    splits: Splits,
    devices: Devices,
    how: str,
    say: Callable[[str], None],
) -> SplitFeatures:
    """Returns the features of both splits, from `config.features_file` if it exists.

    Otherwise they are computed, and written to that file if it is named.
    """
    path, made_by = Path(config.features_file), origin(config, weights, how)
    if config.features_file and path.exists():
        say(f"features from {path}")
        found = read_features(path, made_by)
        for features in (found.train, found.test):
            check_finite_features(features, f"config.features_file = {config.features_file!r}")
        return found
    whose = f"{config.weights} weights of {config.init_from}"
    extractor = FeatureExtractor(config, weights, devices, how, whose)

    def encode(records: Records) -> tuple[np.ndarray, np.ndarray, list[str]]:
        began = time.perf_counter()
        encoded = extractor(records)
        say(f"encoded {len(encoded[0])} images in {time.perf_counter() - began:.0f} s")
        return encoded

    (train, train_labels, bad), (test, test_labels, worse) = map(encode, splits[:2])
    found = SplitFeatures(train, train_labels, test, test_labels, (*bad, *worse))
    if config.features_file and is_main():
        write_features(path, found, made_by)
        say(f"wrote the features to {path}")
    return found


def baselines(config: Report, weights: Weights, splits: Splits, devices: Devices) -> Iterator[Row]:
    """Yields the baselines: raw pixels, and random weights of the same architecture."""
    random = random_weights(weights.architecture, config.seed)
    whose = f"random weights like those of {config.init_from}"
    encoder = FeatureExtractor(config, random, devices, config.features.pool, whose)
    extractors: dict[str, Callable[[Records], Any]] = {
        "raw pixels": lambda records: extract_pixels(records, config, devices)
    }
    if config.weights != "random":
        extractors["random weights"] = encoder
    neighbors = 20 if 20 in config.probes.neighbors else config.probes.neighbors[0]
    for title, extractor in extractors.items():
        train, test = (Split(*extractor(records)[:2]) for records in splits[:2])
        right, penalty = best_logistic(*train, *test)
        note = f"L-BFGS, penalty {penalty:g}"
        yield Row("baselines", f"{title}, logistic regression", float(right.mean()), None, note)
        voted = knn_told(*train, *test, neighbors).mean()
        yield Row("baselines", f"{title}, kNN, k = {neighbors}", float(voted), None, "standardised")


def knn(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """Yields a row for each number of neighbours."""
    probes = config.probes
    known, asked = (np.asarray(x) for x in standardised(train.features, test.features))
    found = knn_accuracies(
        known, train.labels, asked, test.labels, probes.neighbors, probes.temperature
    )
    for neighbors, (accuracy, top5) in found.items():
        note = f"standardised, cosine, weighted vote; top-5 {top5:.2%}"
        yield Row("knn", f"kNN, k = {neighbors}", accuracy, None, note, top5)


def few_shot(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """Yields a row for each number of images per class that every class has."""
    probes = config.probes
    smallest = int(np.bincount(train.labels).min())
    shots = [count for count in probes.shots if count <= smallest]
    found = few_shot_accuracy(*train, *test, shots, probes.draws, seed=config.seed) if shots else {}
    for count, (mean, spread) in found.items():
        note = f"ridge regression, {probes.draws} draws"
        yield Row("few_shot", f"{count} images a class", mean, spread, note)


def logistic(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """Yields one row."""
    found = logistic_accuracy(*train, *test, seed=config.seed)
    note = f"L-BFGS, penalty {found.strength:g}"
    yield Row("logistic", "logistic regression", found.accuracy, None, note)


def linear(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """Yields one row: the best setting on held-out training images."""
    yield _probe("linear", heads.linear, config.probes.epochs, config, train, test)


def attentive(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """Yields one row, on all tokens."""
    head = heads.attentive(config.probes.attentive_heads)
    yield _probe("attentive", head, config.probes.attentive_epochs, config, train, test)


def _probe(
    name: str, head: heads.Head, epochs: int, config: Report, train: Split, test: Split
) -> Row:
    found = probe_accuracy(
        *train,
        *test,
        head,
        epochs=epochs,
        batch_size=config.probes.batch_size,
        warmup_epochs=0.1 * epochs,
        seed=config.seed,
    )
    note = (
        f"{epochs} epochs, {len(found.held_out)} settings at once, chosen: {head.optimizer}, "
        f"learning rate {found.learning_rate:g}, weight decay {found.weight_decay:g}"
    )
    return Row(name, f"{name} probe", found.accuracy, None, note)


MEASURES: dict[str, Callable[[Report, Split, Split], Iterator[Row]]] = {
    "knn": knn,
    "few_shot": few_shot,
    "linear": linear,
    "logistic": logistic,
    "attentive": attentive,
}


def _read(workdir: Path) -> list[Row]:
    there = workdir / "report.json"
    if not there.exists():
        return []
    rows = json.loads(there.read_text())["rows"]
    return [Row(**{name: row.get(name) for name in Row._fields}) for row in rows]


def _write(workdir: Path, config: Report, rows: list[Row], facts: list[str]) -> None:
    """Writes the table as Markdown, HTML and JSON; each row has a command that measures it."""
    commands = {row.probe: _command(config, row.probe, workdir) for row in rows}
    table = [row._asdict() | {"command": commands[row.probe]} for row in rows]
    document: dict[str, Any] = {"init_from": config.init_from, "weights": config.weights}
    document |= {"command": command(), "facts": facts, "explanation": EXPLANATION, "rows": table}
    write(workdir / "report.json", json.dumps(document, indent=2) + "\n")
    text = ["# Report", "", f"`{command()}`", "", *(f"- {fact}" for fact in facts), ""]
    text += ["| | accuracy | |", "| --- | --: | --- |"]
    for row in rows:
        text.append(f"| {row.title} | {_percent(row)} | {row.note} |")
    text += ["", "Each by itself:", ""]
    for line in commands.values():
        text += [f"    {line}"]
    text += ["", EXPLANATION, ""]
    write(workdir / "report.md", "\n".join(text))
    write_report_page(workdir)


def _percent(row: Row) -> str:
    spread = "" if row.spread is None else f" ± {row.spread:.1%}"
    return f"{row.accuracy:.2%}{spread}"


def _line(row: Row) -> str:
    return f"  {row.title:<22} {_percent(row):>16}  {row.note}"


def _command(config: Report, probe: str, workdir: Path) -> str:
    """Returns the command that measures one row, in a separate workdir."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in ("--workdir", "--config.probes.names"):
            next(words, None)
        elif not word.startswith(("--workdir=", "--config.probes.names=", "--config.finetune")):
            kept.append(word)
    names = "()" if probe == "finetune" else f"('{probe}',)"
    epochs = config.finetune.epochs if probe == "finetune" else 0
    kept += [f"--config.finetune.epochs={epochs}", f"--workdir={workdir}_{probe}"]
    line = shlex.join(["python", "-m", "hpm_jax.main", *kept])
    return f'{line} --config.probes.names="{names}"'
