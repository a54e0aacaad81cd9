"""Several runs side by side: `python -m hpm_jax.visualize.compare runs/a runs/b --out compare.png`.

Draws their curves into one picture, writes a page beside it (`compare.html`: the pictures of all
runs under one slider, the curves, the numbers), and prints a table of their last evaluations as
Markdown.
"""

import argparse
import html
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpm_jax.errors import one_sentence
from hpm_jax.run.metrics import read_lines
from hpm_jax.storage import as_path, write
from hpm_jax.visualize import page
from hpm_jax.visualize.charts import SERIES, charts
from hpm_jax.visualize.config_table import workdir_tables
from hpm_jax.visualize.curves import draw_curves
from hpm_jax.visualize.gallery import gallery
from hpm_jax.visualize.numbers import NUMBERS
from hpm_jax.visualize.snapshot import read_snapshots


def table(runs: Mapping[str, Sequence[dict]]) -> str:
    """Returns a Markdown table: a row per run, with the numbers of its last evaluation."""
    heads, rows = table_rows(runs)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_rows(runs: Mapping[str, Sequence[dict]]) -> tuple[list[str], list[list[str]]]:
    """The heads of the columns, and for each run the numbers of its last evaluation."""
    everything = [line for lines in runs.values() for line in lines]
    measured = [number for number in NUMBERS if any(number[0] in line for line in everything)]
    rows = []
    for name, lines in runs.items():
        evaluations = [line for line in lines if any(key in line for key, *_ in measured)]
        last = evaluations[-1] if evaluations else {}
        numbers = [f"{last['epoch']:.4g}"] if last else ["not yet"]
        numbers += [style.format(last[key]) if key in last else "" for key, _, style, _ in measured]
        rows.append([name, *numbers, *[""] * (len(measured) + 1 - len(numbers))])
    return ["run", "epoch", *(title for _, title, _, _ in measured)], rows


def compare_page(runs: Mapping[str, Sequence[dict]], workdirs: Mapping[str, Path]) -> str:
    """The text of an HTML file with the runs side by side.

    Args:
        runs: the lines of each run's `metrics.jsonl`, by its name.
        workdirs: by the same names.
    """
    notes: list[str] = []
    snapshots = {name: read_snapshots(path, notes.append) for name, path in workdirs.items()}
    notes += [f"{name} has no pictures to compare" for name, some in snapshots.items() if not some]
    pictures, data = gallery(snapshots)
    names = "".join(
        f'<li><i class="s{number % SERIES}"></i>{html.escape(name)}</li>'
        for number, name in enumerate(runs)
    )
    figures = charts(runs)
    curves = [f'<ul class="legend">{names}</ul>', f'<div class="charts">{"".join(figures)}</div>']
    tables = [f"<h3>{html.escape(n)}</h3>{workdir_tables(path)}" for n, path in workdirs.items()]
    title = f"{len(runs)} runs side by side"
    body = [
        f"<h1>{title}</h1>",
        page.paragraph(", ".join(runs), "lead"),
        page.section("Results", page.table(*table_rows(runs))),
        page.section("Warnings", page.bullets(notes, "warnings")),
        page.section("What they hide and rebuild", *pictures),
        page.section("Curves", *(curves if figures else [])),
        page.section("What ran", *tables),
    ]
    return page.page(title, filter(None, body), data)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", help="workdirs of the runs to compare")
    parser.add_argument(
        "--out", default="compare.png", help="output picture; the page is written beside it"
    )
    options = parser.parse_args()
    with one_sentence():
        paths = list(map(as_path, options.workdirs))
        for path in paths:
            if not (path / "metrics.jsonl").exists():
                sys.exit(f"error: {path} is not the workdir of a run: it has no metrics.jsonl")
        names = [path.name for path in paths]
        if len(set(names)) < len(names):
            names = list(map(str, paths))
        workdirs = dict(zip(names, paths, strict=True))
        runs = {name: read_lines(x / "metrics.jsonl", print) for name, x in workdirs.items()}
        out = as_path(options.out)
        if out.suffix == ".html":
            sys.exit(f"error: --out={out} is the page: expected a picture, such as compare.png")
        draw_curves(runs, out)
        write(out.with_suffix(".html"), compare_page(runs, workdirs))
    print(table(runs))
    print(f"\nthe pictures side by side: {out.with_suffix('.html')}")


if __name__ == "__main__":
    main()
