"""Probes frozen patch tokens for depth by a linear head: read it from top to bottom."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config.depth import DepthProbe
from hpm_jax.convert.read import starting_weights
from hpm_jax.data.decoding import BrokenImage, to_pixels
from hpm_jax.data.depth_maps import Depths
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.records import DataError
from hpm_jax.data.sources import SOURCES
from hpm_jax.data.views import image_pixels
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.depth import (
    DepthScores,
    eigen_crop,
    fit_ridge,
    patch_depths,
    score_depth,
)
from hpm_jax.evaluation.patch_encoders import PatchEncoder, encoders_of
from hpm_jax.evaluation.patch_probes import PatchBank, standard_of
from hpm_jax.evaluation.segmenting import in_threads, local_shardings
from hpm_jax.evaluation.windows import Canvas, adjacent_windows, cut, sample, views_of
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.storage import write
from hpm_jax.tasks.data import spread
from hpm_jax.tasks.measured import read_rows, write_rows
from hpm_jax.visualize.depth import DepthPicture, draw_depth

EXPLANATION = (
    "One linear map from frozen tokens of single patches to depth is fitted to the training images "
    "in closed form, and enlarged to pixels. Scores are means over the test images of their valid "
    "pixels, at the size of the images. delta1 is the share of pixels whose ratio to the truth is "
    "below 1.25, either way. The mean depth of the training patches, without an image, is a row of "
    "its own."
)
HEADS = ("encoder", "head", "delta1", "delta2", "delta3", "RMSE", "relative error")
MEAN = "mean depth"
FIRST = 3  # images that are checked before anything is compiled

Predict = Callable[[np.ndarray], np.ndarray]  # windows [W, H, W, C] -> values of patches [W, h, w]


class Patches(NamedTuple):
    """A bank of patches of the training images."""

    features: np.ndarray  # [N, D] float32
    depths: np.ndarray  # [N] float32, metres


def depth_probe(config: DepthProbe, workdir: str | Path) -> int:
    """Measures depth from frozen tokens, and writes `report.md`, `report.html` and `report.json`.

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
    train, test = (Depths(one, config.data) for one in (splits.train, splits.test))
    for records in (train, test):
        for _ in readable(config, records, range(min(FIRST, len(records)))):
            pass
    weights = starting_weights(config.init_from, config.weights, config.seed)
    encoders = list(encoders_of(config, weights, config.head.baselines))
    workdir = open_workdir(workdir, config)
    data, head = config.data, config.head
    height, width = data.image_size
    facts = [
        f"data: {data.path}, {len(train)} images to fit and {len(test)} to test; depths from "
        f"{data.nearest:g} to {data.farthest:g} m{', Eigen crop' * config.evaluation.eigen_crop}",
        f"patches: {head.bank} of the training images at most, of windows of {height} x {width} "
        f"pixels; {devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))

    # --- fit and score
    rows = read_rows(workdir)

    def add(title: str, note: str, predict: Predict, draws: bool) -> None:
        scores, pictures = measure(config, test, predict, draws)
        rows.append({"encoder": title, "head": note} | scores._asdict())
        console.say("  ".join(cells(rows[-1])))
        if is_main():
            if pictures:
                png = draw_depth(pictures, f"{title}: delta1 {scores.delta1:.2%}")
                write(workdir / "pictures" / "step_0000000.png", png)
            table = [cells(row) for row in rows]
            write_rows(workdir, config, rows, table, HEADS, facts, EXPLANATION, texts=2)

    there = {row["encoder"] for row in rows}
    mean_wanted = head.baselines and MEAN not in there
    for encoder in encoders:
        if encoder.title in there and not mean_wanted:
            continue
        patches = read_patches(config, encoder, weights.architecture.patch_size, train)
        if mean_wanted:
            mean_wanted, level = False, float(to_value(config, patches.depths).mean())
            grid = encoder.grid

            def constant(windows, level=level, grid=grid):
                return np.full((len(windows), *grid), level, np.float32)

            add(MEAN, "no image", constant, False)
        if encoder.title in there:
            continue
        predict, note = fit_head(config, encoder, patches)
        add(encoder.title, note, predict, encoder is encoders[0])
    console.say(f"done: read {workdir / 'report.md'}")
    return 0


def readable(
    config: DepthProbe, records: Depths, places: Any
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields place, pixels `[h, w, C]` and depth `[h, w]` of the images that can be read.

    Raises:
        DataError: for a wrong depth map, or more unreadable images than are allowed.
    """
    data = config.data
    broken = BrokenImages(records, data.max_broken, data.max_pixels)

    def load(place: int) -> tuple[np.ndarray, np.ndarray]:
        example = records[place]
        return to_pixels(image_pixels(example["image"], data), data.value_range), example["depth"]

    for place, loaded in zip(places, in_threads(load, places, config.run.threads), strict=True):
        try:
            pixels, depth = loaded.result()
        except (BrokenImage, OSError):
            broken.add(np.array([place]))
            continue
        yield int(place), pixels, depth


def encode(config: DepthProbe, function: Callable[..., Any], params: Any) -> Predict:
    """Builds `images [N, H, W, C] -> function(params, images)`, in batches over the devices."""
    replicated, batch = local_shardings()
    placed = jax.device_put(params, replicated)
    compiled = jax.jit(function, out_shardings=batch)
    count = batch.mesh.size
    size = -(-config.evaluation.batch_size // count) * count
    return lambda images: in_batches(
        lambda x: compiled(placed, jax.device_put(x, batch)), size, images
    )


def read_patches(
    config: DepthProbe, encoder: PatchEncoder, patch_size: int, records: Depths
) -> Patches:
    """Encodes the training images, and keeps as many patches of each, drawn at random.

    Every process encodes all of them. A patch needs half of its pixels to be valid.

    Raises:
        DataError: if fewer than two patches are.
    """
    most = max(1, config.head.bank // len(records))
    tokens = encode(config, encoder.tokens, encoder.params)
    features, depths = [], []
    for place, pixels, depth in readable(config, records, range(len(records))):
        windows, maps = adjacent_windows(pixels, depth, config.data, np.float32(0))
        found = np.concatenate([patch_depths(one, patch_size).ravel() for one in maps])
        rng = np.random.default_rng((config.seed, place))
        drawn = np.sort(rng.permutation(np.flatnonzero(found))[:most])
        if len(drawn):
            encoded = tokens(windows)
            features.append(encoded.reshape(-1, encoded.shape[-1])[drawn])
            depths.append(found[drawn])
    if sum(map(len, depths)) < 2:
        raise DataError(
            f"{config.data.path} has {sum(map(len, depths))} training patches with a depth from "
            f"config.data.nearest = {config.data.nearest:g} to config.data.farthest = "
            f"{config.data.farthest:g} m: expected two or more; check config.data.unit"
        )
    return Patches(np.concatenate(features), np.concatenate(depths))


def to_value(config: DepthProbe, depth: np.ndarray) -> np.ndarray:
    """Returns what is regressed: the logarithm of depth in metres, or depth itself."""
    return np.log(depth) if config.head.logarithm else depth


def to_depth(config: DepthProbe, value: np.ndarray) -> np.ndarray:
    """Returns metres within the range of the config: the inverse of `to_value`, and clipped."""
    data = config.data
    if config.head.logarithm:
        value = np.exp(np.clip(value, np.log(data.nearest), np.log(data.farthest)))
    return np.clip(value, data.nearest, data.farthest)


def fit_head(config: DepthProbe, encoder: PatchEncoder, patches: Patches) -> tuple[Predict, str]:
    """Fits the head, and returns the function of windows and a note for the table."""
    standard = standard_of(PatchBank(patches.features, patches.depths))
    features = np.asarray(standard(jnp.asarray(patches.features)))
    linear, penalty = fit_ridge(features, to_value(config, patches.depths), config.head.penalties)

    def values(params, images):
        encoder_params, standard, kernel = params
        found = standard(encoder.tokens(encoder_params, images)) @ kernel
        return found.reshape(len(images), *encoder.grid)

    predict = encode(config, values, (encoder.params, standard, linear.kernel))
    note = f"{len(patches.depths)} patches, penalty {penalty:g}"
    return lambda windows: predict(windows) + np.float32(linear.bias), note


def measure(
    config: DepthProbe, records: Depths, predict: Predict, draws: bool
) -> tuple[DepthScores, list[DepthPicture]]:
    """Returns the mean scores over the test images, and some images if `draws`.

    Every process measures all of them.

    Raises:
        DataError: if no image has a valid pixel.
    """
    drawn = set(spread(len(records), config.evaluation.pictures).tolist()) if draws else set()
    scores, pictures = [], []
    for place, pixels, depth in readable(config, records, range(len(records))):
        predicted = predict_image(config, pixels, predict)
        truth = eigen_crop(depth) if config.evaluation.eigen_crop else depth
        found = score_depth(truth, predicted)
        if found is not None:
            scores.append(found)
        if place in drawn:
            pictures.append(DepthPicture(pixels, truth, predicted))
    if not scores:
        raise DataError(
            f"no pixel of the {len(records)} test images has a depth from config.data.nearest = "
            f"{config.data.nearest:g} to config.data.farthest = {config.data.farthest:g} m, so "
            "there is nothing to score; check config.data.unit"
        )
    return DepthScores(*np.mean(scores, axis=0).tolist()), pictures


def predict_image(config: DepthProbe, pixels: np.ndarray, predict: Predict) -> np.ndarray:
    """Returns the depth of an image `[h, w]` in metres, by sliding windows: the mean of all views.

    Means are of what is regressed.
    """
    size = pixels.shape[:2]
    total = np.zeros(size, np.float32)
    views = views_of(pixels, config)
    for view in views:
        canvas = Canvas(view, config.data.image_size)
        images = np.stack([cut(view, window, config.data) for window in view.windows])
        for window, values in zip(view.windows, predict(images), strict=True):
            canvas.add(window, values[..., None])
        total += sample(canvas.logits(), slice(None), size)[..., 0]
    return to_depth(config, total / len(views))


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table, as in `HEADS`."""
    shares = [f"{row[name]:.2%}" for name in ("delta1", "delta2", "delta3")]
    return [row["encoder"], row["head"], *shares, f"{row['rmse']:.3f} m", f"{row['relative']:.3f}"]
