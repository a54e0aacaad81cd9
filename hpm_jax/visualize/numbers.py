"""The numbers of a run that a person reads first, and the table of how they moved."""

from collections.abc import Sequence
from typing import NamedTuple

# name, what it is, format, whether it should rise
NUMBERS = (
    ("top1", "top-1 accuracy", "{:.2%}", True),
    ("top5", "top-5 accuracy", "{:.2%}", True),
    ("test_loss", "cross-entropy on the test split", "{:.4f}", False),
    ("miou", "mean IoU", "{:.2%}", True),
    ("pixel_accuracy", "pixel accuracy", "{:.2%}", True),
    ("mean_class_accuracy", "mean accuracy of classes", "{:.2%}", True),
    ("box_ap", "AP of boxes", "{:.2%}", True),
    ("box_ap50", "AP50 of boxes", "{:.2%}", True),
    ("mask_ap", "AP of masks", "{:.2%}", True),
    ("mask_ap50", "AP50 of masks", "{:.2%}", True),
    ("held_out/explained", "variance of hidden patches explained", "{:.1%}", True),
    ("held_out/ranked_correctly", "held-out pairs ranked correctly", "{:.1%}", True),
    ("logistic", "logistic regression on features", "{:.1%}", True),
    ("knn", "kNN accuracy", "{:.1%}", True),
    ("held_out/reconstruction", "held-out reconstruction loss (random masks)", "{:.4f}", False),
    ("rank_me", "RankMe", "{:.1f}", None),
)
# what each number has to beat, and the key of a line that has it
BASELINES = {
    "held_out/explained": ("interpolation", "filled/explained_interpolated"),
    "held_out/ranked_correctly": ("patch contrast", "held_out/contrast"),
    "logistic": ("raw pixels", "raw_pixels/logistic"),
    "knn": ("raw pixels", "raw_pixels/knn"),
}


class Baseline(NamedTuple):
    """What is reached without the model."""

    title: str
    value: float


def baseline(name: str, lines: Sequence[dict]) -> Baseline | None:
    """The newest baseline of a number in the lines of `metrics.jsonl`; None where there is none."""
    title, key = BASELINES.get(name, ("", ""))
    values = [line[key] for line in lines if isinstance(line.get(key), int | float)]
    return Baseline(title, values[-1]) if values else None


def number_rows(evaluations: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """A row for each number that was measured: its title, then its baseline, start, best, end.

    Args:
        evaluations: the lines of `metrics.jsonl` that have one of `NUMBERS`, one at least.

    Returns:
        The heads of the columns after the first one, and the rows.
    """
    first, last = evaluations[0], evaluations[-1]
    baselines = {name: found for name, *_ in NUMBERS if (found := baseline(name, evaluations))}
    begun = "random weights" if first["epoch"] == 0 else f"epoch {first['epoch']:.0f}"
    heads = [*(["baseline"] if baselines else []), begun, "best", f"epoch {last['epoch']:.0f}"]
    rows = []
    for name, title, style, rises in NUMBERS:
        values = [line[name] for line in evaluations if name in line]
        if values:
            best = "" if rises is None else style.format(max(values) if rises else min(values))
            cells = [title, style.format(values[0]), best, style.format(values[-1])]
            if baselines:
                there = baselines.get(name)
                cells.insert(1, f"{style.format(there.value)} ({there.title})" if there else "")
            rows.append(cells)
    return heads, rows
