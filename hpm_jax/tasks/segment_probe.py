"""Probes frozen patch tokens for segmentation: read it from top to bottom."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config import SegmentProbe
from hpm_jax.convert.read import starting_weights
from hpm_jax.data.decoding import BrokenImage, to_pixels
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.records import DataError
from hpm_jax.data.segmented import IGNORED, Segmented, check_first
from hpm_jax.data.sources import SOURCES
from hpm_jax.data.views import image_pixels
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.confusion import Scores
from hpm_jax.evaluation.patch_encoders import PatchEncoder, encoders_of
from hpm_jax.evaluation.patch_probes import (
    PatchBank,
    fit_logistic,
    knn_votes,
    logistic_logits,
    patch_labels,
    standard_of,
)
from hpm_jax.evaluation.segmenting import SegmentMeter, in_threads, local_shardings
from hpm_jax.evaluation.windows import adjacent_windows
from hpm_jax.run.console import Console
from hpm_jax.run.devices import Devices, all_devices
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.tasks.data import LOOKED_AT
from hpm_jax.tasks.measured import read_rows, write_rows
from hpm_jax.tasks.segment import class_names

EXPLANATION = (
    "One classifier of single patches is fitted to frozen tokens of the training images, and its "
    "scores of patches are enlarged to pixels. Scores are over all labelled pixels of the test "
    "split, which is met once."
)
HEADS = ("encoder", "probe", "mean IoU", "pixel accuracy", "mean accuracy of classes")


def segment_probe(config: SegmentProbe, workdir: str | Path) -> int:
    """Measures frozen tokens, and writes `report.md`, `report.html` and `report.json`.

    Rows that are already in the workdir's `report.json` are not measured again.

    Args:
        config: from `hpm_jax.config.freeze`, completed by `hpm_jax.config.inherit`.
        workdir: folder for the table.

    Returns:
        The exit code of the command.
    """
    console = Console()
    # --- data and weights: all are checked before anything is compiled
    devices = all_devices()
    splits = SOURCES[config.data.source](config.data)
    classes = class_names(config, splits)
    train, test = (Segmented(one, config.data, len(classes)) for one in (splits.train, splits.test))
    for records in (train, test):
        check_first(records, LOOKED_AT)
    weights = starting_weights(config.init_from, config.weights, config.seed)
    encoders = list(encoders_of(config, weights, config.probes.baselines))
    workdir = open_workdir(workdir, config)
    height, width = config.data.image_size
    facts = [
        f"data: {config.data.path}, {len(train)} images to fit and {len(test)} to test, "
        f"{len(classes)} classes",
        f"patches: {config.probes.bank} of the training images at most, of windows of {height} x "
        f"{width} pixels; {devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))

    # --- fit and score
    rows = read_rows(workdir)
    for encoder in encoders:
        there = {row["probe"] for row in rows if row["encoder"] == encoder.title}
        names = [name for name in config.probes.names if name not in there]
        if not names:
            continue
        bank = read_bank(config, encoder, weights.architecture.patch_size, train, len(classes))
        for name in names:
            scores, note = probe(config, encoder, bank, name, test, len(classes), devices)
            rows.append({"encoder": encoder.title, "probe": name, "note": note} | scores.numbers())
            console.say("  ".join(cells(rows[-1])))
            if is_main():
                table = [cells(row) for row in rows]
                write_rows(workdir, config, rows, table, HEADS, facts, EXPLANATION, texts=2)
    console.say(f"done: read {workdir / 'report.md'}")
    return 0


def read_bank(
    config: SegmentProbe, encoder: PatchEncoder, patch_size: int, records: Segmented, classes: int
) -> PatchBank:
    """Encodes the training images, and keeps as many labelled patches of each, drawn at random.

    Every process encodes all of them.

    Raises:
        DataError: if no patch has a class.
    """
    data, run = config.data, config.run
    replicated, batch = local_shardings()
    params = jax.device_put(encoder.params, replicated)
    compiled = jax.jit(encoder.tokens, out_shardings=batch)
    count = batch.mesh.size
    size = -(-config.evaluation.batch_size // count) * count
    most = max(1, config.probes.bank // len(records))
    broken = BrokenImages(records, data.max_broken, data.max_pixels)
    waiting: list[tuple[int, np.ndarray, np.ndarray]] = []  # images of less than a batch
    features, labels = [], []

    def encode() -> None:
        whole = np.concatenate([images for _, images, _ in waiting])
        found = in_batches(lambda x: compiled(params, jax.device_put(x, batch)), size, whole)
        ends = np.cumsum([len(images) for _, images, _ in waiting])[:-1]
        for (place, _, maps), some in zip(waiting, np.split(found, ends), strict=True):
            known = np.concatenate([patch_labels(one, patch_size, classes).ravel() for one in maps])
            rng = np.random.default_rng((config.seed, place))
            drawn = np.sort(rng.permutation(np.flatnonzero(known >= 0))[:most])
            features.append(some.reshape(-1, some.shape[-1])[drawn])
            labels.append(known[drawn])
        waiting.clear()

    def load(place: int) -> tuple[np.ndarray, np.ndarray]:
        example = records[place]
        pixels = to_pixels(image_pixels(example["image"], data), data.value_range)
        return adjacent_windows(pixels, example["label_map"], data, np.int16(IGNORED))

    for place, loaded in enumerate(in_threads(load, range(len(records)), run.threads)):
        try:
            images, maps = loaded.result()
        except (BrokenImage, OSError):
            broken.add(np.array([place]))
            continue
        waiting.append((place, images, maps))
        if sum(len(images) for _, images, _ in waiting) >= size:
            encode()
    if waiting:
        encode()
    bank = PatchBank(np.concatenate(features), np.concatenate(labels))
    if len(np.unique(bank.labels)) < 2:
        raise DataError(
            "half the pixels of a patch have to be of one class, and the patches of the training "
            f"images have {len(np.unique(bank.labels))} classes: expected two or more"
        )
    return bank


def probe(
    config: SegmentProbe,
    encoder: PatchEncoder,
    bank: PatchBank,
    name: str,
    test: Segmented,
    classes: int,
    devices: Devices,
) -> tuple[Scores, str]:
    """Fits a probe to the bank, and returns its scores on the test split and what it chose."""
    options, standard = config.probes, standard_of(bank)
    grid = encoder.grid
    if name == "logistic":
        fitted, penalty = fit_logistic(bank, classes, options.penalties, options.iterations)
        params: Any = (encoder.params, standard, fitted)
        logits = logistic_logits(encoder.tokens, grid)
        note = f"{len(bank.labels)} patches, penalty {penalty:g}"
    else:
        neighbors = min(options.neighbors, len(bank.labels))
        features = standard(jnp.asarray(bank.features))
        params = (encoder.params, standard, features, jnp.asarray(bank.labels, jnp.int32))
        logits = knn_votes(encoder.tokens, grid, classes, neighbors, options.temperature)
        note = f"{len(bank.labels)} patches, {neighbors} neighbours"
    return SegmentMeter(config, logits, test, devices)(params), note


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table, as in `HEADS`."""
    scores = (f"{row[name]:.2%}" for name in ("miou", "pixel_accuracy", "mean_class_accuracy"))
    return [row["encoder"], f"{row['probe']} ({row['note']})", *scores]
