"""Several runs side by side: `python -m hpm_jax.visualize.compare runs/a runs/b --out compare.png`.

Draws their curves into one picture, and prints a table of their last evaluations as Markdown.
"""

import argparse
import sys

from hpm_jax.errors import UserError
from hpm_jax.run.metrics import read_lines
from hpm_jax.storage import as_path
from hpm_jax.visualize.curves import draw_curves
from hpm_jax.visualize.report import NUMBERS


def table(runs: dict[str, list[dict]]) -> str:
    """Markdown: a row for each run, with the numbers of its last evaluation."""
    everything = [line for lines in runs.values() for line in lines]
    measured = [number for number in NUMBERS if any(number[0] in line for line in everything)]
    rows = [["run", "epoch", *(title for _, title, _, _ in measured)]]
    rows.append(["---"] * len(rows[0]))
    for name, lines in runs.items():
        evaluations = [line for line in lines if any(key in line for key, *_ in measured)]
        last = evaluations[-1] if evaluations else {}
        numbers = [f"{last['epoch']:.4g}"] if last else ["not yet"]
        numbers += [style.format(last[key]) if key in last else "" for key, _, style, _ in measured]
        rows.append([name, *numbers])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", help="of the runs to compare")
    parser.add_argument("--out", default="compare.png", help="the picture")
    options = parser.parse_args()
    try:
        runs = {}
        for workdir in map(as_path, options.workdirs):
            if not (workdir / "metrics.jsonl").exists():
                sys.exit(f"error: {workdir} is not the workdir of a run: it has no metrics.jsonl")
            runs[workdir.name] = read_lines(workdir / "metrics.jsonl")
        draw_curves(runs, as_path(options.out))
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table(runs))


if __name__ == "__main__":
    main()
