"""`report.md`: what came out of a run, for a person."""

from pathlib import Path

from hpm_jax.run.metrics import read_lines
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write
from hpm_jax.visualize.curves import draw_curves

# name, what it is, format, whether it should rise
NUMBERS = (
    ("top1", "top-1 accuracy", "{:.2%}", True),
    ("top5", "top-5 accuracy", "{:.2%}", True),
    ("test_loss", "cross-entropy on the test split", "{:.4f}", False),
    ("logistic", "logistic regression on features", "{:.1%}", True),
    ("knn", "kNN accuracy", "{:.1%}", True),
    ("held_out/reconstruction", "held-out reconstruction loss (random masks)", "{:.4f}", False),
    ("held_out/ranked_correctly", "held-out pairs ranked correctly", "{:.1%}", True),
    ("rank_me", "RankMe", "{:.1f}", None),
)


def write_report(workdir: Path, command: str, facts: list[str], explanation: str) -> None:
    """Draws `pictures/curves.png` and writes `report.md` from `metrics.jsonl`.

    Args:
        facts: sentences on the data, the hardware and the time, one bullet each.
        explanation: how to read the numbers.
    """
    if not is_main():
        return
    lines = read_lines(workdir / "metrics.jsonl")
    evaluations = [line for line in lines if any(name in line for name, *_ in NUMBERS)]
    pictures = sorted(path.name for path in (workdir / "pictures").glob("step_*"))
    draw_curves({"run": lines}, workdir / "pictures" / "curves.png")
    text = ["# Report", "", f"`{command}`", ""]
    text += [f"- {fact}" for fact in facts]
    text += ["", "## Is it learning?", ""]
    text += _table(evaluations)
    text += [
        "",
        explanation,
        "",
        "## Curves",
        "",
        "![curves](pictures/curves.png)",
        "",
    ]
    if pictures:
        text += ["## Pictures", ""]
    steps = [name.split(".")[0] for name in pictures]
    for step, name in zip(steps, pictures, strict=True):
        if step in (steps[0], steps[-1]):
            text += [f"![{name}](pictures/{name})", ""]
    if pictures:
        text += ["Visible patches of a rebuilt image are pasted from the input.", ""]
    write(workdir / "report.md", "\n".join(text))


def _table(evaluations: list[dict]) -> list[str]:
    if not evaluations:
        return ["Nothing was measured: config.evaluation.every_epochs = 0."]
    first, last = evaluations[0], evaluations[-1]
    pixels = any(f"raw_pixels/{name}" in first for name, *_ in NUMBERS)
    begun = "random weights" if first["epoch"] == 0 else f"epoch {first['epoch']:.0f}"
    heads = [*(["raw pixels"] if pixels else []), begun, "best", f"epoch {last['epoch']:.0f}"]
    rows = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for name, title, style, rises in NUMBERS:
        values = [line[name] for line in evaluations if name in line]
        if values:
            best = "" if rises is None else style.format(max(values) if rises else min(values))
            begin, end = style.format(values[0]), style.format(values[-1])
            cells = [title, begin, best, end]
            if pixels:
                baseline = first.get(f"raw_pixels/{name}")
                cells.insert(1, "" if baseline is None else style.format(baseline))
            rows.append(f"| {' | '.join(cells)} |")
    return rows
