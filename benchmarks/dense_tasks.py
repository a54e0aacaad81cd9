"""Pre-training and dense tasks: are CamVid and BCCD easier from an encoder that rebuilt patches?

    python -m benchmarks.dense_tasks --camvid /data/camvid --bccd /data/bccd \
        --workdir runs/dense_tasks --out results/dense_tasks.json

The images of both training splits, reduced to a short side of 96 pixels, pre-train one small
encoder for each method and seed. Each then starts segmentation of CamVid and detection on BCCD, and
so do random weights, all with the same options and number of steps: fine-tuned, and frozen. A
number that --out has is not measured again; --table prints it as tables.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from hpm_jax.compare.statistics import paired
from hpm_jax.config import defaults, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.tasks.detect import detect
from hpm_jax.tasks.pretrain import pretrain
from hpm_jax.tasks.segment import segment
from hpm_jax.tasks.segment_probe import segment_probe

SHORT_SIDE = 96  # of images of 4 to 3, so 96 x 128
IGNORED = 11
METHODS = ("mae", "hpm")
ENCODERS = ("raw_pixels", "random", *METHODS)
MEASURES = {  # of each task, the most important first
    "segment": ("miou", "pixel_accuracy"),
    "segment_logistic": ("miou",),
    "segment_knn": ("miou",),
    "detect": ("box_ap50", "box_ap"),
    "detect_frozen": ("box_ap50", "box_ap"),
}
TITLES = {
    "segment": "CamVid, end to end: ",
    "segment_logistic": "frozen, logistic regression: ",
    "segment_knn": "frozen, kNN: ",
    "detect": "BCCD, end to end: ",
    "detect_frozen": "BCCD, frozen: ",
}
NAMES = {"miou": "mIoU", "pixel_accuracy": "pixels", "box_ap": "AP", "box_ap50": "AP50"}


def reduce(source: Path, target: Path, labels: bool = False) -> None:
    """Writes an image with a short side of 96; label maps take the nearest class."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        factor = SHORT_SIDE / min(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        image.resize(size, Resampling.NEAREST if labels else Resampling.BOX).save(target)


def reduce_all(camvid: Path, bccd: Path, target: Path) -> None:
    """Writes `target/camvid`, `target/bccd` and `target/pretrain` with the training images."""
    for split in ("train", "val"):
        for source in sorted((camvid / "images" / split).iterdir()):
            reduce(source, target / "camvid" / "images" / split / f"{source.stem}.png")
            label_map = camvid / "labels" / split / f"{source.stem}.png"
            reduce(label_map, target / "camvid" / "labels" / split / label_map.name, labels=True)
        annotations = json.loads((bccd / "annotations" / f"{split}.json").read_text())
        for image in annotations["images"]:
            name = f"{Path(image['file_name']).stem}.png"
            reduce(bccd / split / image["file_name"], target / "bccd" / split / name)
            factor = SHORT_SIDE / min(image["width"], image["height"])
            image.update(file_name=name)
            image.update({side: round(image[side] * factor) for side in ("width", "height")})
        for each in annotations["annotations"]:
            each["bbox"] = [side * factor for side in each["bbox"]]  # all images have one size
            each["area"] *= factor**2
        out = target / "bccd" / "annotations" / f"{split}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(annotations))
    (target / "camvid" / "classes.txt").write_text((camvid / "classes.txt").read_text())
    images = target / "pretrain" / "train"
    images.mkdir(parents=True)
    for data in ("camvid/images", "bccd"):
        for image in (target / data / "train").iterdir():
            (images / image.name).hardlink_to(image)


def run(task: Callable[[Any, Path], int], config: Any, workdir: Path) -> None:
    """Runs a task to its end; a signal that stops it stops all."""
    if code := task(freeze(inherit(config)), workdir):
        sys.exit(code)


def pretrain_encoder(method: str, seed: int, data: Path, runs: Path) -> None:
    """Pre-trains on crops of 64 x 64: 80 epochs of 543 images, batches of 64."""
    config = defaults()
    config.seed = seed
    config.data.update(source="folder", path=str(data), image_size=(64, 64), holdout=0.05)
    config.data.crop_scale = (0.3, 1.0)
    config.model.update(patch_size=8, width=96, depth=4, heads=3, unroll=0)
    config.model.update(decoder_width=48, decoder_depth=1, decoder_heads=2)
    config.target = "normalized_pixels"
    config.optimizer.update(epochs=80, batch_size=64, base_learning_rate=4e-3, warmup_epochs=5.0)
    config.teacher = "moving_average(start=0.99, end=0.99)"
    if method == "mae":
        config.mask.strategy = "random"
        config.losses, config.teacher = (), "none"
    config.evaluation.update(every_epochs=0.0)
    config.run.update(checkpoint_every_epochs=80.0)
    run(pretrain, config, runs / f"pretrain_{method}_{seed}")


def started(task: str, encoder: str, seed: int, runs: Path) -> Any:
    """Returns the config of a task that starts from `encoder`; the baselines have its sizes."""
    config = defaults(task)
    config.seed = seed
    source = encoder if encoder in METHODS else METHODS[0]
    config.init_from = str(runs / f"pretrain_{source}_{seed}")
    if encoder not in METHODS:
        config.weights = "random"
    return config


def segmented(encoder: str, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Trains a linear decoder end to end: 20 epochs of 367 crops of 64 x 64, batches of 16."""
    config = started("segment", encoder, seed, runs)
    config.data.update(path=str(data), ignore_index=IGNORED)
    config.model.update(raw_pixels=encoder == "raw_pixels", drop_path=0.0, unroll=0)
    config.optimizer.update(epochs=20, batch_size=16, absolute_learning_rate=1e-3)
    config.optimizer.update(layer_decay=1.0, warmup_epochs=1.0)
    config.evaluation.update(every_epochs=20.0)
    config.run.update(checkpoint_every_epochs=20.0)
    workdir = runs / f"segment_{encoder}_{seed}"
    run(segment, config, workdir)
    return {"segment": json.loads((workdir / "segmentation.json").read_text())}


def probed(encoder: str, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Classifies 20,000 frozen patch tokens, by logistic regression and kNN."""
    config = started("segment_probe", encoder, seed, runs)
    config.data.update(path=str(data), ignore_index=IGNORED)
    config.probes.update(bank=20_000, baselines=encoder == "raw_pixels")
    workdir = runs / f"probe_{encoder}_{seed}"
    run(segment_probe, config, workdir)
    rows = json.loads((workdir / "report.json").read_text())["measured"]
    if encoder == "raw_pixels":
        rows = [row for row in rows if row["encoder"] == "raw pixels"]
    return {f"segment_{row['probe']}": row for row in rows}


def detected(encoder: str, seed: int, data: Path, runs: Path, frozen: bool) -> dict[str, Any]:
    """Trains a small Mask R-CNN without masks: 12 epochs of 205 images, batches of 8."""
    config = started("detect", encoder, seed, runs)
    config.data.update(path=str(data), image_size=(96, 128), max_objects=40)
    config.augment.scale = (0.8, 1.25)
    config.model.update(masks=False, frozen=frozen, window=0, global_blocks=4, drop_path=0.0)
    config.model.update(channels=32, box_head="2fc", box_width=128, anchor_scale=4.0, unroll=0)
    config.model.update(level_proposals=100, test_level_proposals=100, proposals=100)
    config.model.update(sampled_anchors=128, sampled_proposals=64)
    config.optimizer.update(epochs=12, batch_size=8, absolute_learning_rate=1e-3, decay="cosine")
    config.optimizer.update(layer_decay=1.0, warmup_epochs=1.0)
    config.evaluation.update(every_epochs=12.0)
    config.run.update(checkpoint_every_epochs=12.0)
    name = "detect_frozen" if frozen else "detect"
    workdir = runs / f"{name}_{encoder}_{seed}"
    run(detect, config, workdir)
    return {name: json.loads((workdir / "detection.json").read_text())}


def measure(encoder: str, seed: int, workdir: Path) -> dict[str, dict[str, float]]:
    """Runs the tasks that start from one encoder, and returns its scores by task."""
    runs, data = workdir / "runs", workdir / "data"
    found = segmented(encoder, seed, data / "camvid", runs)
    found |= probed(encoder, seed, data / "camvid", runs)
    if encoder != "raw_pixels":  # a detector needs an encoder
        for frozen in (False, True):
            found |= detected(encoder, seed, data / "bccd", runs, frozen)
    return {
        task: {name: round(numbers[name], 4) for name in MEASURES[task]}
        for task, numbers in found.items()
    }


def cell(scores: dict[int, float]) -> str:
    """Returns the mean over the seeds, and their standard deviation, in percent."""
    values = 100 * np.array(list(scores.values()))
    if not len(values):
        return "-"
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def tables(results: dict[str, Any]) -> str:
    """Returns the scores, and the paired differences of encoders, as Markdown."""
    columns = [(task, name) for task, names in MEASURES.items() for name in names]

    def scores(encoder: str, task: str, name: str) -> dict[int, float]:
        """Returns a score by seed."""
        rows = [(key.rpartition("_"), row) for key, row in results.items()]
        return {
            int(seed): row[task][name]
            for (of, _, seed), row in rows
            if of == encoder and task in row
        }

    titles = [TITLES[task] + NAMES[name] for task, name in columns]
    lines = [f"| encoder | seeds | {' | '.join(titles)} |"]
    lines.append("| --- | --: |" + " --: |" * len(columns))
    for encoder in ENCODERS:
        found = [scores(encoder, *column) for column in columns]
        lines.append(f"| {encoder} | {len(found[0])} | {' | '.join(map(cell, found))} |")
    lines += ["", "| difference | score | seeds | points | 95 % interval | p |"]
    lines.append("| --- | --- | --: | --: | --: | --: |")
    for better, other in (("mae", "random"), ("hpm", "random"), ("hpm", "mae")):
        for task, names in MEASURES.items():
            first, second = scores(better, task, names[0]), scores(other, task, names[0])
            seeds = sorted(first.keys() & second.keys())
            if len(seeds) < 2:
                continue
            pairs = np.array([(first[seed], second[seed]) for seed in seeds])
            difference = paired(*pairs.T)
            low, high = (100 * bound for bound in difference.interval)
            lines.append(
                f"| {better} - {other} | {TITLES[task]}{NAMES[names[0]]} | {len(seeds)} | "
                f"{100 * difference.difference:+.1f} | [{low:+.1f}, {high:+.1f}] | "
                f"{difference.p:.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, help="folder in CamVid's layout")
    parser.add_argument("--bccd", type=Path, help="folder with COCO annotations")
    parser.add_argument("--workdir", type=Path, default=Path("runs/dense_tasks"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/dense_tasks.json"))
    parser.add_argument("--table", action="store_true", help="print what --out has, and end")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.table:
        print(tables(results))
        return
    data = options.workdir / "data"
    if not data.exists():
        reduce_all(options.camvid, options.bccd, data)
    for seed, encoder in itertools.product(options.seeds, ENCODERS):
        if f"{encoder}_{seed}" in results:
            continue
        for method in METHODS:  # a finished run ends at once
            pretrain_encoder(method, seed, data / "pretrain", options.workdir / "runs")
        results[f"{encoder}_{seed}"] = measure(encoder, seed, options.workdir)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
