"""The table of a frozen encoder's measures, kept in the workdir row by row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpm_jax.storage import write
from hpm_jax.tasks.finish import command
from hpm_jax.visualize.report_page import write_report_page


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows that `report.json` has, which need not be measured again."""
    there = workdir / "report.json"
    return json.loads(there.read_text())["measured"] if there.exists() else []


def write_rows(
    workdir: Path,
    config: Any,
    rows: list[dict[str, Any]],
    table: list[list[str]],
    heads: Sequence[str],
    facts: list[str],
    explanation: str,
    texts: int = 1,
) -> None:
    """Writes the table as Markdown, HTML and JSON.

    Args:
        config: has `init_from` and `weights`.
        rows: what was measured.
        table: the cells of each row.
        heads: of the columns.
        facts, explanation: as in `write_report`.
        texts: number of first columns that are no numbers.
    """
    document: dict[str, Any] = {"init_from": config.init_from, "weights": config.weights}
    document |= {"command": command(), "facts": facts, "explanation": explanation}
    document |= {"measured": rows, "table": {"heads": heads, "rows": table}}
    write(workdir / "report.json", json.dumps(document, indent=2) + "\n")
    aligned = ["---"] * texts + ["--:"] * (len(heads) - texts)
    text = ["# Report", "", f"`{command()}`", "", *(f"- {fact}" for fact in facts), ""]
    text += [f"| {' | '.join(line)} |" for line in (heads, aligned, *table)]
    write(workdir / "report.md", "\n".join([*text, "", explanation, ""]))
    write_report_page(workdir)
