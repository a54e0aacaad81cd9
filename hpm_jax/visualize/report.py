"""Writes `report.md` and `report.html`, the results of a run."""

import json
from pathlib import Path

from hpm_jax.run.metrics import read_lines
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write
from hpm_jax.visualize.curves import draw_curves
from hpm_jax.visualize.numbers import NUMBERS, number_rows
from hpm_jax.visualize.report_page import class_heads, class_rows, write_report_page


def write_report(workdir: Path, command: str, facts: list[str], explanation: str) -> None:
    """Draws `pictures/curves.png` and writes `report.md` and `report.html` from `metrics.jsonl`.

    `report.json` keeps the arguments, so that the page can be made again.

    Args:
        facts: sentences on the data, the hardware and the time, one bullet each.
        explanation: how to read the numbers.
    """
    if not is_main():
        return
    facts = list(facts)
    lines = read_lines(workdir / "metrics.jsonl", facts.append)
    evaluations = [line for line in lines if any(name in line for name, *_ in NUMBERS)]
    there = (workdir / "pictures").glob("step_*")
    pictures = sorted(path.name for path in there if path.suffix in (".png", ".gif"))
    draw_curves({"run": lines}, workdir / "pictures" / "curves.png")
    text = ["# Report", "", f"`{command}`", ""]
    text += [f"- {fact}" for fact in facts]
    text += ["", "## Is it learning?", ""]
    text += _table(evaluations)
    text += [
        "",
        explanation,
        "",
    ]
    classes = class_rows(workdir)
    if classes:
        heads = " | ".join(class_heads(workdir))
        text += ["## Classes", "", f"| {heads} |", "| --- | --: | --: | --: |"]
        text += [*(f"| {' | '.join(row)} |" for row in classes), ""]
    text += [
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
    if pictures and not classes:
        text += ["Visible patches of a rebuilt image are pasted from the input.", ""]
    write(workdir / "report.md", "\n".join(text))
    told = {"command": command, "facts": facts, "explanation": explanation}
    write(workdir / "report.json", json.dumps(told, indent=2) + "\n")
    write_report_page(workdir)


def _table(evaluations: list[dict]) -> list[str]:
    if not evaluations:
        return ["Nothing was measured: config.evaluation.every_epochs = 0."]
    heads, rows = number_rows(evaluations)
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
