"""The curves of one run, or of several together."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hpm_jax.storage import write

CURVES = {
    "cross_entropy": "cross-entropy, augmented training images",
    "test_loss": "cross-entropy, test split",
    "top1": "top-1 accuracy",
    "miou": "mean IoU, test split",
    "pixel_accuracy": "pixel accuracy, test split",
    "mean_class_accuracy": "mean accuracy of classes, test split",
    "box_ap": "AP of boxes, test split",
    "box_ap50": "AP50 of boxes, test split",
    "mask_ap": "AP of masks, test split",
    "loss_classes": "cross-entropy of proposals, training crops",
    "loss_objectness": "cross-entropy of anchors, training crops",
    "reconstruction": "reconstruction loss, training masks",
    "held_out/explained": "variance of hidden patches explained, held out",
    "held_out/ranked_correctly": "pairs of patches ranked correctly, held out",
    "held_out/reconstruction": "reconstruction loss, held out, random masks",
    "logistic": "logistic regression on features",
    "knn": "kNN accuracy",
    "rank_me": "RankMe",
    "ranked_correctly": "pairs of patches ranked correctly",
    "n_hard": "hard patches an image",
}


LOWEST_EXPLAINED = -0.5  # random weights are far below, and would flatten the curve


def is_drawn(name: str, value: float) -> bool:
    """Whether a curve shows the value."""
    return name != "held_out/explained" or value > LOWEST_EXPLAINED


def draw_curves(
    runs: Mapping[str, Sequence[dict]], path: Path, names: Sequence[str] = tuple(CURVES)
) -> None:
    """Draws the curves `names` over epochs to a PNG file.

    Args:
        runs: the lines of each run's `metrics.jsonl`, by the name for its legend.
    """
    there = [
        name for name in names if any(name in line for lines in runs.values() for line in lines)
    ]
    columns = min(3, max(len(there), 1))
    rows = -(-len(there) // columns) or 1
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), dpi=90)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, there, strict=False):
        for run, lines in runs.items():
            points = [
                (line["epoch"], line[name])
                for line in lines
                if name in line and is_drawn(name, line[name])
            ]
            # many points become a line, few stay visible
            style = {"marker": "."} if len(points) < 50 else {}
            if points:
                axis.plot(*zip(*points, strict=True), label=run, linewidth=1.2, **style)
        axis.set_title(CURVES.get(name, name), fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(there) :]:
        axis.set_visible(False)
    if len(runs) > 1 and there:
        axes[0].legend(fontsize=7)
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    write(path, file.getvalue())
