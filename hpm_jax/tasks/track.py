"""Propagates the labels of a clip's first frame by frozen tokens: read it from top to bottom."""

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config.track import Track
from hpm_jax.convert.read import starting_weights
from hpm_jax.data.davis import Clip, read_clips
from hpm_jax.data.records import DataError
from hpm_jax.data.resizing import resize
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.patch_encoders import PatchEncoder, encoders_of
from hpm_jax.evaluation.segmenting import Segmentation, in_threads, local_shardings
from hpm_jax.evaluation.tracking import propagate, score_object, stretched, within
from hpm_jax.evaluation.windows import enlarge
from hpm_jax.models.segment_decoders.upernet import shares
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices
from hpm_jax.run.processes import is_main
from hpm_jax.run.workdir import open_workdir
from hpm_jax.storage import write
from hpm_jax.tasks.data import spread
from hpm_jax.tasks.measured import read_rows, write_rows
from hpm_jax.visualize.segments import draw

EXPLANATION = (
    "The objects of the first frame are passed on from frame to frame by the similarity of frozen "
    "tokens; nothing is trained. J is intersection over union, F the agreement of boundaries; both "
    "are means over the frames of each object but the first and the last, and then over all "
    "objects. Recall is the share of those frames above 0.5. The copy of the first frame is what "
    "an object that never moves would give."
)
HEADS = ("encoder", "J & F", "J", "J recall", "F", "F recall")
COPY = "first frame, copied"

Tracked = Iterator[tuple[int, np.ndarray]]  # place of a frame, objects int16 [h, w]
Tracker = Callable[[Clip, int], Tracked]  # (clip, number of classes) -> frames but the first


def track(config: Track, workdir: str | Path) -> int:
    """Measures tracking by frozen tokens, and writes `report.md`, `report.html` and `report.json`.

    Rows that are already in the workdir's `report.json` are not measured again.

    Args:
        config: from `hpm_jax.config.freeze`, completed by `hpm_jax.config.inherit`.
        workdir: folder for the table.

    Returns:
        The exit code of the command.
    """
    console = Console()
    # --- clips and weights: all are checked before anything is compiled
    devices = all_devices()
    clips = read_clips(config.data)
    for clip in clips:
        clip.objects(0)
    weights = starting_weights(config.init_from, config.weights, config.seed)
    encoders = list(encoders_of(config, weights, config.propagation.baselines))
    workdir = open_workdir(workdir, config)
    rule, (height, width) = config.propagation, config.data.image_size
    facts = [
        f"data: {config.data.path}, {len(clips)} clips of {sum(len(c.frames) for c in clips)} "
        f"frames, each resized to {height} x {width}",
        f"propagation: from the first and {rule.frames} previous frames, {rule.neighbors} patches "
        f"within {rule.radius} rows and columns, temperature {rule.temperature:g}; "
        f"{devices.count} x {jax.devices()[0].device_kind}",
    ]
    console.say("\n".join(facts))

    # --- track and score
    rows = read_rows(workdir)
    trackers = [(encoder.title, tracker(config, encoder)) for encoder in encoders]
    if rule.baselines:
        trackers.append((COPY, copied))
    for number, (title, follow) in enumerate(trackers):
        if title in {row["encoder"] for row in rows}:
            continue
        scores, pictures = measure(config, clips, follow, draws=number == 0)
        rows.append({"encoder": title} | scores)
        console.say("  ".join(cells(rows[-1])))
        if is_main():
            if pictures:
                names = ["background", *(f"object {k}" for k in range(1, most_objects(pictures)))]
                png = draw(pictures, names, f"{title}: J & F {scores['mean']:.2%}")
                write(workdir / "pictures" / "step_0000000.png", png)
            table = [cells(row) for row in rows]
            write_rows(workdir, config, rows, table, HEADS, facts, EXPLANATION)
    console.say(f"done: read {workdir / 'report.md'}")
    return 0


def tracker(config: Track, encoder: PatchEncoder) -> Tracker:
    """Builds the function that follows the objects of a clip by the tokens of an encoder."""
    rule, grid = config.propagation, encoder.grid
    near = within(grid, rule.radius)
    encoded = unit_tokens(config, encoder)

    @jax.jit
    def follow_once(target, sources, labels, known):
        reach = near & known[:, None, None]
        return propagate(target, sources, labels, reach, rule.neighbors, rule.temperature)

    def follow(clip: Clip, classes: int) -> Tracked:
        tokens = encoded(clip)
        first = next(tokens), patch_shares(first_objects(clip), grid, classes)
        recent: collections.deque = collections.deque(maxlen=rule.frames)
        for place, target in enumerate(tokens, start=1):
            some = [first, *recent]
            missing = 1 + rule.frames - len(some)
            known = np.arange(1 + rule.frames) < len(some)
            sources, labels = (
                np.stack([one[part] for one in some] + [first[part]] * missing) for part in (0, 1)
            )
            found = np.asarray(follow_once(target, sources, labels, known))
            recent.append((target, found))
            size = clip.frame(place).shape[:2]
            whole = stretched(enlarge(found.reshape(*grid, classes), size))
            yield place, whole.argmax(axis=-1).astype(np.int16)

    return follow


def copied(clip: Clip, classes: int) -> Tracked:
    """The baseline: every frame has the objects of the first."""
    objects = first_objects(clip)
    for place in range(1, len(clip.frames)):
        yield place, objects


def first_objects(clip: Clip) -> np.ndarray:
    """Returns the objects of the first frame; pixels that do not count are background."""
    objects = clip.objects(0)
    assert objects is not None  # `read_clips` has checked it
    return np.maximum(objects, 0)


def patch_shares(objects: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Returns the share of each object in each patch, `[N, classes]` float32."""
    rows, columns = (shares(side, count) for side, count in zip(objects.shape, grid, strict=True))
    one_hot = (objects[..., None] == np.arange(classes)).astype(np.float32)
    found = np.einsum("rh,hwk,cw->rck", rows, one_hot, columns, optimize=True)
    return found.reshape(-1, classes)


def unit_tokens(config: Track, encoder: PatchEncoder) -> Callable[[Clip], Iterator[np.ndarray]]:
    """Builds `clip -> tokens [N, D] of unit length of each frame`, encoded in batches."""
    replicated, batch = local_shardings()
    params = jax.device_put(encoder.params, replicated)

    def tokens(params, images):
        found = encoder.tokens(params, images).astype(jnp.float32)
        return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)

    compiled = jax.jit(tokens, out_shardings=batch)
    count = batch.mesh.size
    size = -(-config.evaluation.batch_size // count) * count

    def load(place_of: tuple[Clip, int]) -> np.ndarray:
        clip, place = place_of
        pixels = clip.frame(place)
        wanted = config.data.image_size
        return pixels if pixels.shape[:2] == wanted else resize(pixels, wanted)

    def encoded(clip: Clip) -> Iterator[np.ndarray]:
        for start in range(0, len(clip.frames), size):
            places = [(clip, k) for k in range(start, min(start + size, len(clip.frames)))]
            images = [one.result() for one in in_threads(load, places, config.run.threads)]
            yield from in_batches(
                lambda x: compiled(params, jax.device_put(x, batch)), size, np.stack(images)
            )

    return encoded


def measure(
    config: Track, clips: list[Clip], follow: Tracker, draws: bool
) -> tuple[dict[str, float], list[Segmentation]]:
    """Returns the scores over all objects of all clips, and the last scored frame of some.

    Every process measures all of them.

    Raises:
        DataError: if no object is annotated in a frame that is scored.
    """
    drawn = set(spread(len(clips), config.evaluation.pictures).tolist()) if draws else set()
    means, recalls, pictures = [], [], []
    for number, clip in enumerate(clips):
        classes = int(first_objects(clip).max()) + 1
        found: dict[int, list[tuple[float, float]]] = {k: [] for k in range(1, classes)}
        last = max(len(clip.frames) - 1, 2)  # the last frame does not count, as in DAVIS
        shown = None
        for place, objects in follow(clip, classes):
            truth = clip.objects(place) if place < last else None
            if truth is None:
                continue
            counted = truth >= 0
            for k, scores in found.items():
                predicted = (objects == k) & counted
                scores.append(score_object(truth == k, predicted, config.evaluation.boundary))
            if number in drawn:
                shown = Segmentation(place, clip.frame(place), truth, objects)
        for scores in filter(None, found.values()):
            means.append(np.mean(scores, axis=0))
            recalls.append((np.array(scores) > 0.5).mean(axis=0))
        pictures += [shown] if shown is not None else []
    if not means:
        raise DataError(
            f"no object of the {len(clips)} clips of {config.data.path} is annotated in a frame "
            "after the first: expected maps in Annotations for the frames to score"
        )
    (region, edge), (region_recall, edge_recall) = np.mean(means, axis=0), np.mean(recalls, axis=0)
    return {
        "mean": float(region + edge) / 2,
        "region": float(region),
        "region_recall": float(region_recall),
        "boundary": float(edge),
        "boundary_recall": float(edge_recall),
    }, pictures


def most_objects(pictures: list[Segmentation]) -> int:
    """Returns the largest number of classes in the pictures, background included."""
    return int(max(max(one.truth.max(), one.predicted.max()) for one in pictures)) + 1


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table, as in `HEADS`."""
    names = ("mean", "region", "region_recall", "boundary", "boundary_recall")
    return [row["encoder"], *(f"{row[name]:.2%}" for name in names)]
