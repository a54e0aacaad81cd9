"""The config and the versions of a run, as tables of a page."""

import html
from pathlib import Path
from typing import Any

from hpm_jax.errors import UserError
from hpm_jax.fields import describe, short
from hpm_jax.run.workdir import read_config
from hpm_jax.text_files import read_json
from hpm_jax.visualize.page import folded, table

HEADS = ("option", "value", "default", "what it is")


def config_tables(config: Any) -> str:
    """The options of a task, folded: those that differ from the defaults first, then the others."""
    changed: list[tuple[str, ...]] = []
    same: list[tuple[str, ...]] = []
    for one in describe(type(config)):
        value = config
        for part in one.name.split("."):
            value = getattr(value, part)
        text = repr(short(value))
        (same if text == one.default else changed).append((one.name, text, one.default, one.help))
    words = (0, 1, 2, 3)
    return folded(
        f"Config: {len(changed)} options differ from the defaults",
        table(HEADS, changed, words, "options"),
    ) + folded(
        f"The other {len(same)} options, at their defaults",
        table(
            (HEADS[0], HEADS[1], HEADS[3]),
            [(row[0], row[1], row[3]) for row in same],
            (0, 1, 2),
            "options plain",
        ),
    )


def workdir_tables(workdir: Path) -> str:
    """Config and versions of the run in a workdir; what cannot be read is named instead."""
    found = ""
    try:
        found += config_tables(read_config(workdir))
    except (UserError, OSError) as error:
        found += f"<p>{html.escape(str(error))}</p>"
    try:
        versions = read_json(workdir / "versions.json", UserError)
        rows = [(name, str(version)) for name, version in versions.items()]
        found += folded("Versions", table(("package", "version"), rows, (0, 1)))
    except (UserError, OSError) as error:
        found += f"<p>{html.escape(str(error))}</p>"
    return found
