"""A table of what a pre-trained encoder is worth: read it from top to bottom."""

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hpm_jax.convert.random import load_weights
from hpm_jax.data.sources import SOURCES, Records
from hpm_jax.evaluation.features import FeatureExtractor
from hpm_jax.evaluation.few_shot import few_shot_accuracy
from hpm_jax.evaluation.knn import knn_accuracy
from hpm_jax.evaluation.logistic import logistic_accuracy
from hpm_jax.evaluation.probes import ATTENTIVE, LINEAR, probe_accuracy
from hpm_jax.inherit import finetune_config
from hpm_jax.options import Report
from hpm_jax.tasks.finetune import check_labels, finetune
from hpm_jax.tasks.pretrain import command
from hpm_jax.training.console import Console
from hpm_jax.training.devices import all_devices
from hpm_jax.training.metrics import read_lines
from hpm_jax.training.workdir import open_workdir


class Row(NamedTuple):
    """One line of the table."""

    probe: str  # which it is, as `config.probes.names` calls it
    title: str
    accuracy: float
    spread: float | None  # standard deviation, where there are several draws
    note: str


class Split(NamedTuple):
    """A split as the encoder sees it."""

    features: np.ndarray
    labels: np.ndarray


def report(config: Report, workdir: str | Path) -> int:
    """Measures an encoder on its own labelled images and writes `report.md` and `report.json`.

    What stands in the workdir's `report.json` already is not measured again.

    Args:
        config: from `hpm_jax.config.freeze`, of what `hpm_jax.inherit.inherit` has filled up.
        workdir: the folder for the table, and for the fine-tuning run where one is asked for.

    Returns:
        The exit code of the command.
    """
    console = Console()
    devices = all_devices()
    splits = SOURCES[config.data.source](config.data)
    check_labels(splits)
    weights = load_weights(config.init_from, config.weights, config.seed)
    workdir = open_workdir(workdir, config)
    facts = [
        f"{config.weights} weights of {config.init_from}: width {weights.architecture.width}, "
        f"{weights.architecture.depth} blocks",
        f"features: {config.features.pool} after block {config.features.block}, "
        f"{config.data.image_size[0]} x {config.data.image_size[1]} pixels, {config.features.dtype}",
        f"{len(splits.train)} training images, {len(splits.test)} test images, "
        f"{len(splits.classes)} classes, on {devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))
    rows = _read(workdir)
    wanted = [name for name in config.probes.names if name not in {row.probe for row in rows}]

    def extract(how: str) -> tuple[Split, Split]:
        extractor = FeatureExtractor(config, weights, devices, how)
        return encode(extractor, splits.train), encode(extractor, splits.test)

    def encode(extractor: FeatureExtractor, records: Records) -> Split:
        began = time.perf_counter()
        features, labels, unread = extractor(records)
        for name in unread:
            console.say(f"cannot read {name}: left out")
        facts.extend(f"left out, unreadable: {name}" for name in unread)
        seconds = time.perf_counter() - began
        console.say(f"encoded {len(features)} images in {seconds:.0f} s")
        return Split(features, labels)

    # --- frozen features, made once for all probes that read the same
    for how, names in (("tokens", ["attentive"]), (config.features.pool, list(MEASURES))):
        here = [
            name for name in wanted if name in names and (how == "tokens") == (name == "attentive")
        ]
        if not here:
            continue
        train, test = extract(how)
        for name in here:
            began = time.perf_counter()
            for row in MEASURES[name](config, train, test):
                rows.append(row)
                console.say(_line(row))
            console.say(f"{name} took {time.perf_counter() - began:.0f} s")
            _write(workdir, config, rows, facts)

    # --- all weights
    if config.finetune.epochs:
        code = finetune(finetune_config(config), workdir / "finetune")
        if code:
            return code
        lines = [
            line for line in read_lines(workdir / "finetune" / "metrics.jsonl") if "top1" in line
        ]
        rows = [row for row in rows if row.probe != "finetune"]
        note = f"{config.finetune.epochs} epochs, the last one's"
        rows.append(Row("finetune", "fine-tuning", lines[-1]["top1"], None, note))
    _write(workdir, config, rows, facts)
    console.say(f"done: read {workdir / 'report.md'}")
    return 0


def knn(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """One row for each number of neighbours."""
    probes = config.probes
    found = knn_accuracy(*train, *test, probes.neighbors, probes.temperature)
    for neighbors, accuracy in found.items():
        yield Row("knn", f"kNN, k = {neighbors}", accuracy, None, "cosine, weighted vote")


def few_shot(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """One row for each number of images a class."""
    probes = config.probes
    found = few_shot_accuracy(*train, *test, probes.shots, probes.draws, seed=config.seed)
    for shots, (mean, spread) in found.items():
        note = f"ridge regression, {probes.draws} draws"
        yield Row("few_shot", f"{shots} images a class", mean, spread, note)


def logistic(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """One row."""
    found = logistic_accuracy(*train, *test, seed=config.seed)
    note = f"L-BFGS, penalty {found.strength:g}"
    yield Row("logistic", "logistic regression", found.accuracy, None, note)


def linear(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """One row: the setting that does best on held-out training images."""
    yield from _probe(config, train, test, "linear", LINEAR)


def attentive(config: Report, train: Split, test: Split) -> Iterator[Row]:
    """One row, on all tokens."""
    yield from _probe(config, train, test, "attentive", ATTENTIVE)


def _probe(config: Report, train: Split, test: Split, name: str, protocol: Any) -> Iterator[Row]:
    probes, key = config.probes, jax.random.key(config.seed)
    found = probe_accuracy(*train, *test, protocol, probes.epochs, probes.batch_size, key)
    note = (
        f"{probes.epochs} epochs, {len(found.held_out)} settings at once, chosen: "
        f"learning rate {found.learning_rate:g}, weight decay {found.weight_decay:g}"
    )
    yield Row(name, f"{name} probe", found.accuracy, None, note)


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
    return [
        Row(*(row[field] for field in Row._fields)) for row in json.loads(there.read_text())["rows"]
    ]


def _write(workdir: Path, config: Report, rows: list[Row], facts: list[str]) -> None:
    """The table for a person and for a program; a row's command measures that row alone."""
    commands = {row.probe: _command(config, row.probe, workdir) for row in rows}
    table = [row._asdict() | {"command": commands[row.probe]} for row in rows]
    document = {"init_from": config.init_from, "weights": config.weights, "facts": facts}
    (workdir / "report.json").write_text(json.dumps(document | {"rows": table}, indent=2) + "\n")
    text = ["# Report", "", f"`{command()}`", "", *(f"- {fact}" for fact in facts), ""]
    text += ["| | accuracy | |", "| --- | --: | --- |"]
    for row in rows:
        text.append(f"| {row.title} | {_percent(row)} | {row.note} |")
    text += ["", "Each by itself:", ""]
    for line in commands.values():
        text += [f"    {line}"]
    text += [
        "",
        "Settings are chosen on held-out training images, and the test images are met once. "
        "Images are centre crops, without augmentation; fine-tuning augments.",
        "",
    ]
    (workdir / "report.md").write_text("\n".join(text))


def _percent(row: Row) -> str:
    spread = "" if row.spread is None else f" ± {row.spread:.1%}"
    return f"{row.accuracy:.2%}{spread}"


def _line(row: Row) -> str:
    return f"  {row.title:<22} {_percent(row):>16}  {row.note}"


def _command(config: Report, probe: str, workdir: Path) -> str:
    names = "()" if probe == "finetune" else f"('{probe}',)"
    parts = [f"--config.probes.names={names}"]
    if probe != "finetune" and config.finetune.epochs:
        parts.append("--config.finetune.epochs=0")
    return f"{command()} {shlex.join([*parts, f'--workdir={workdir}_{probe}'])}"
