"""Shows the contents of a data set, its defects, and a command that trains on it."""

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hpm_jax.config import Data
from hpm_jax.data.inspect.arguments import NAMES, add_data, data_of
from hpm_jax.data.inspect.sheet import contact_sheet
from hpm_jax.data.inspect.survey import survey
from hpm_jax.data.records import Splits
from hpm_jax.data.sources import SOURCES
from hpm_jax.data.statistics import Statistics, config_lines, measure
from hpm_jax.data.suggest import facts_of, suggest, this_machine
from hpm_jax.errors import one_sentence

SHOWN = 3  # number of names of each kind on the console
CLASSES = 12  # number of classes whose counts are shown


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error in the arguments is printed as one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m hpm_jax.data.inspect", description=(__doc__ or "").splitlines()[0]
    )
    add_data(parser)
    parser.add_argument(
        "--sample", type=int, default=500, metavar="N", help="number of images to decode"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("inspect"), help="folder for the output files"
    )
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    with one_sentence(OSError):
        data = data_of(options)
        splits = SOURCES[data.source](data)
        found = inspect(splits, data, max(1, options.sample))
        statistics: Statistics = found.pop("statistics")
        options.out.mkdir(parents=True, exist_ok=True)
        contact_sheet(splits, data, statistics).save(options.out / "contact_sheet.png")
        found["seconds"] = round(time.perf_counter() - began, 1)
        text = json.dumps(found, indent=2, default=str) + "\n"
        (options.out / "inspect.json").write_text(text, errors="backslashreplace")
    show(found, Console(highlight=False))
    print(f"{options.out}/inspect.json, {options.out}/contact_sheet.png ({found['seconds']} s)")


def inspect(splits: Splits, data: Data, sample: int) -> dict[str, Any]:
    """Returns all facts, for JSON; `statistics` is a `Statistics`."""
    videos = data.source.startswith("video")
    found: dict[str, Any] = {"source": data.source, "path": data.path, "name": data.name}
    found |= {"splits": _counts(splits)} if videos else survey(splits)
    statistics = measure(splits.train, data, sample)
    found["decoded"] = {
        **statistics._asdict(),
        "of": len(splits.train),
        "broken": list(statistics.broken),
        "constant": list(statistics.constant),
    }
    if not videos:
        machine = this_machine()
        options = suggest(facts_of(splits, data), machine)
        found |= {"machine": machine._asdict(), "suggested": options}
        found["command"] = command(data, options)
    return found | {"statistics": statistics}


def _counts(splits: Splits) -> dict[str, Any]:
    parts = (("train", splits.train), ("test", splits.test))
    return {name: {"images": len(part), "looked_at": 0, "classes": {}} for name, part in parts}


def command(data: Data, options: dict[str, Any]) -> str:
    """Returns a command line that trains on the data."""
    default = Data()
    given = {
        f"data.{name}": getattr(data, name)
        for name in ("source", *NAMES)
        if getattr(data, name) != getattr(default, name)
    }
    words = [f"--config.{name}={shlex.quote(str(value))}" for name, value in given.items()]
    lines = [
        "python -m hpm_jax.main --config configs/hpm_folder.py --workdir runs/mine",
        *words,
        *config_lines(options),
    ]
    return " \\\n    ".join(lines)


def show(found: dict[str, Any], console: Console) -> None:
    """Prints the facts."""
    table = Table("", "train", "test", box=None, pad_edge=False)
    splits = found["splits"]
    table.add_row("images", *(f"{split['images']:,}" for split in splits.values()))
    table.add_row("headers read", *(f"{split['looked_at']:,}" for split in splits.values()))
    classes = splits["train"]["classes"]
    table.add_row("classes", str(len(classes) or "none"), "")
    for name in list(classes)[:CLASSES]:
        test = splits["test"]["classes"].get(name, 0)
        table.add_row(f"  {name}", f"{classes[name]:,}", f"{test:,}")
    if len(classes) > CLASSES:
        table.add_row(f"  and {len(classes) - CLASSES} more", "", "")
    console.print(table)
    for name in ("formats", "channels", "bits"):
        if name in found:
            counts = ", ".join(f"{key}: {count:,}" for key, count in found[name].items())
            _say(console, f"{name:9} {counts}")
    for name in ("height", "width", "aspect"):
        if name in found:
            _say(console, f"{name:9} " + ", ".join(f"{k} {v:g}" for k, v in found[name].items()))
    decoded = found["decoded"]
    _say(
        console,
        f"decoded   {decoded['sample']:,} of {decoded['of']:,} training images: "
        f"{decoded['channels']} channels of {decoded['dtype']}, mean {decoded['mean']}, "
        f"deviation {decoded['std']} of values from {decoded['low']:g} to {decoded['high']:g}",
    )
    _list(console, "no header can be read", found.get("broken_count", 0), found.get("broken", []))
    for title, names in (
        ("cannot be decoded", decoded["broken"]),
        ("of one colour", decoded["constant"]),
    ):
        _list(console, f"{title}, of those decoded", len(names), names)
    for note, odd in found.get("odd", {}).items():
        _list(console, note, odd["images"], odd["examples"])
    copies = found.get("copies", {"groups": 0})
    if copies["groups"]:
        _list(
            console,
            f"copies of one another in {copies['groups']:,} groups, "
            f"{copies['between_train_and_test']:,} of them between train and test",
            copies["images"],
            [" = ".join(group) for group in copies["examples"]],
        )
    if "command" in found:
        _say(console, f"\na command for this data and this machine:\n\n{found['command']}\n")


def _list(console: Console, what: str, count: int, names: list[str]) -> None:
    if count:
        _say(console, f"{count:,} {what}: {', '.join(names[:SHOWN])}{', ...' * (count > SHOWN)}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
