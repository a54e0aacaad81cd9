"""Makes `report.html`: the results of a run in one file.

    python -m hpm_jax.visualize.report_page runs/mine

rewrites it from the files of the workdir, also for a run that has not ended.
"""

import argparse
import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpm_jax.errors import UserError, one_sentence
from hpm_jax.run.library_log import NAME as LIBRARY_LOG
from hpm_jax.run.metrics import read_lines
from hpm_jax.storage import as_path, write
from hpm_jax.text_files import read_json
from hpm_jax.visualize.charts import charts
from hpm_jax.visualize.config_table import workdir_tables
from hpm_jax.visualize.gallery import gallery
from hpm_jax.visualize.numbers import NUMBERS, baseline, number_rows
from hpm_jax.visualize.page import (
    Number,
    bullets,
    code,
    folded,
    key_numbers,
    page,
    paragraph,
    section,
    table,
)
from hpm_jax.visualize.snapshot import read_snapshots

WARNING = "Warning: "
KEY = 4  # numbers that stand out
LOG_LINES = 40
EMBEDDED = 1_500_000  # bytes of the largest file that is taken into the page as it is
TASKS = {
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "segment": "Semantic segmentation",
    "detect": "Object detection",
    "detect_evaluate": "Scores of a detector",
    "segment_probe": "Probes of patches",
    "segment_evaluate": "Scores of a segmentation",
    "depth_probe": "Depth from frozen patches",
    "track": "Objects followed by frozen patches",
    "probe": "Probes",
    "report": "Report on an encoder",
    "evaluate": "Evaluation",
}


CLASS_HEADS = ("class", "IoU", "accuracy", "share of pixels")
DETECTED_HEADS = ("class", "AP of boxes", "AP50 of boxes", "objects")


class ReportError(UserError, ValueError):
    """A folder from which no page can be made."""


def write_report_page(workdir: Path) -> None:
    """Writes `report.html` from the files of a workdir.

    Raises:
        ReportError: where `config.json` or `report.json` is damaged.
        StorageError: where it cannot be written.
    """
    write(workdir / "report.html", report_page(workdir))


def report_page(workdir: Path) -> str:
    """The text of `report.html`: of a training run, of a report or of an evaluation."""
    config = workdir / "config.json"
    task = (read_json(config, ReportError) if config.exists() else {}).get("task", "pretrain")
    name = "evaluate.json" if task == "evaluate" else "report.json"
    there = workdir / name
    told = read_json(there, ReportError, "remove it") if there.exists() else {}
    facts = [str(fact) for fact in told.get("facts", [])]
    lines = read_lines(workdir / "metrics.jsonl", facts.append)
    snapshots = read_snapshots(workdir, lambda sentence: facts.append(WARNING + sentence))
    pictures, data = gallery({workdir.name: snapshots})
    warnings = [fact.removeprefix(WARNING) for fact in facts if fact.startswith(WARNING)]
    facts = [fact for fact in facts if not fact.startswith(WARNING)]
    title = workdir.name or "run"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        paragraph(lead(str(task), facts), "lead"),
        *results(task, told, lines),
        section("Classes", table(class_heads(workdir), class_rows(workdir))),
        section("Warnings", bullets(warnings, "warnings")),
        section(
            "What it predicts" if task in SHEETS else "What it hides and rebuilds",
            *pictures,
            *([] if data else sheets(workdir, SHEETS.get(str(task), REBUILT))),
            *animation(workdir),
        ),
        section("Curves", curves(charts({"this run": lines}))),
        section(
            "What ran",
            code(str(told.get("command", ""))),
            bullets(facts),
            workdir_tables(workdir),
            folded("What libraries warned of", code(library_log(workdir))),
        ),
    ]
    return page(f"{title}: {TASKS.get(task, task)}", filter(None, body), data)


def lead(task: str, facts: Sequence[str]) -> str:
    """Describes the run in one line."""
    run = next((fact for fact in facts if fact.startswith("run: ")), facts[0] if facts else "")
    return f"{TASKS.get(task, task)}: {run.removeprefix('run: ')}".removesuffix(": ")


def results(task: str, told: dict[str, Any], lines: Sequence[dict]) -> list[str]:
    """Returns the numbers with their baselines and explanations."""
    if task == "evaluate":
        return [section("Results", key_numbers(evaluated(told)))]
    if "table" in told:
        heads, rows = told["table"]["heads"], told["table"]["rows"]
        explanation = paragraph(str(told.get("explanation", "")), "soft")
        return [section("Results", table(heads, rows, (0, 1)), explanation)]
    if "rows" in told:
        return [
            section("Results", key_numbers(measured(told["rows"])), accuracy_table(told["rows"]))
        ]
    evaluations = [line for line in lines if any(name in line for name, *_ in NUMBERS)]
    if not evaluations:
        return [section("Results", paragraph("Nothing has been measured."))]
    heads, rows = number_rows(evaluations)
    return [
        section(
            "Results",
            key_numbers(trained(evaluations)),
            folded("All numbers, their best and their start", table(["", *heads], rows)),
            paragraph(str(told.get("explanation", "")), "soft"),
        )
    ]


def trained(evaluations: Sequence[dict]) -> list[Number]:
    """The first numbers of the last evaluation beside their baselines and random weights."""
    first, found = evaluations[0], []
    for name, title, style, _ in NUMBERS:
        values = [line[name] for line in evaluations if name in line]
        if not values:
            continue
        there = baseline(name, evaluations)
        beside = [f"{there.title} {style.format(there.value)}"] if there else []
        if first.get("epoch") == 0 and name in first and len(values) > 1:
            beside.append(f"random weights {style.format(first[name])}")
        found.append(Number(title, style.format(values[-1]), " · ".join(beside)))
    return found[:KEY]


def measured(rows: Sequence[dict[str, Any]]) -> list[Number]:
    """The best row of each probe of a report, beside its baselines."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        best = found.get(row["probe"])
        if row["probe"] != "baselines" and (not best or row["accuracy"] > best["accuracy"]):
            found[row["probe"]] = row
    bases = {row["title"]: row["accuracy"] for row in rows if row["probe"] == "baselines"}
    numbers = []
    for probe, row in found.items():
        kind = {"logistic": "logistic regression", "knn": "kNN"}.get(probe)
        beside = [
            f"{title.split(',')[0]} {accuracy:.2%}"
            for title, accuracy in bases.items()
            if kind and kind in title
        ]
        numbers.append(Number(row["title"], f"{row['accuracy']:.2%}", " · ".join(beside)))
    return numbers


def accuracy_table(rows: Sequence[dict[str, Any]]) -> str:
    """Every row of a report."""
    cells = []
    for row in rows:
        spread = "" if row.get("spread") is None else f" ± {row['spread']:.1%}"
        cells.append((row["title"], f"{row['accuracy']:.2%}{spread}", row["note"]))
    return table(("", "accuracy", "how"), cells, (0, 2))


def evaluated(told: dict[str, Any]) -> list[Number]:
    """Of an evaluation."""
    if "top1" not in told:
        return []
    return [
        Number("top-1 accuracy", f"{told['top1']:.3%}", f"{told['count']:,} examples"),
        Number("top-5 accuracy", f"{told['top5']:.3%}"),
        Number("cross-entropy", f"{told['loss']:.4f}"),
    ]


def curves(figures: Sequence[str]) -> str:
    """The charts side by side; "" for none."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


REBUILT = "input, masked, rebuilt, losses and mask"
SHEETS = dict.fromkeys(("segment", "segment_evaluate"), "image, truth, prediction and errors")
SHEETS["track"] = "frame, truth, prediction and errors"
SHEETS |= {"depth_probe": "image, depth, predicted depth and their ratio"}
SHEETS |= dict.fromkeys(("detect", "detect_evaluate"), "annotated objects, and those found")


def sheets(workdir: Path, what: str) -> list[str]:
    """The first and the last picture as they are, of a run that has no snapshots."""
    pictures = sorted((workdir / "pictures").glob("step_*.png"))
    return [_file(path, what) for path in {*pictures[:1], *pictures[-1:]}]


def class_heads(workdir: Path) -> tuple[str, ...]:
    """The columns of `class_rows`."""
    return DETECTED_HEADS if (workdir / "detection.json").exists() else CLASS_HEADS


def class_rows(workdir: Path) -> list[list[str]]:
    """The scores of each class of a segmentation or detection run; [] for other runs."""
    detected = workdir / "detection.json"
    if detected.exists():
        return [
            [
                str(one["name"]),
                *("" if one[key] is None else f"{one[key]:.2%}" for key in ("box_ap", "box_ap50")),
                f"{one['objects']}",
            ]
            for one in read_json(detected, ReportError, "remove it").get("classes", [])
        ]
    there = workdir / "segmentation.json"
    if not there.exists():
        return []
    classes = read_json(there, ReportError, "remove it").get("classes", [])
    return [
        [
            str(one["name"]),
            *("" if one[key] is None else f"{one[key]:.2%}" for key in ("iou", "accuracy")),
            f"{one['share']:.2%}",
        ]
        for one in classes
    ]


def animation(workdir: Path) -> list[str]:
    """The last animation of a run on videos."""
    pictures = sorted((workdir / "pictures").glob("step_*.gif"))
    return (
        [_file(pictures[-1], "the clips, masked and rebuilt, as an animation")] if pictures else []
    )


def library_log(workdir: Path) -> str:
    """The last lines of what libraries logged; "" for none."""
    path = workdir / LIBRARY_LOG
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _file(path: Path, what: str) -> str:
    step = int(path.stem.removeprefix("step_"))
    content = path.read_bytes()
    if len(content) > EMBEDDED:
        return paragraph(f"pictures/{path.name} is too large for this page.", "soft")
    uri = f"data:image/{path.suffix[1:]};base64,{base64.b64encode(content).decode()}"
    return f'<p class="sheet"><img alt="Step {step}: {what}" src="{uri}"></p>'


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.visualize.report_page",
        description="Writes report.html of a workdir again.",
    )
    parser.add_argument("workdirs", nargs="+", help="workdirs of the runs")
    with one_sentence():
        for workdir in map(as_path, parser.parse_args(argv).workdirs):
            if not (workdir / "config.json").exists():
                raise ReportError(f"{workdir} is not the workdir of a run: it has no config.json")
            write_report_page(workdir)
            print(f"wrote {workdir / 'report.html'}")


if __name__ == "__main__":
    main()
