"""The page of a comparison: `results.md`, `results.html` and `results.json`, from its cells."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpm_jax.compare.cells import BASELINES, Cells, value
from hpm_jax.compare.figure import draw_results, draw_training
from hpm_jax.compare.statistics import Contrast, Result, analyse
from hpm_jax.compare.table import (
    Table,
    contrast_table,
    describe,
    exploratory_table,
    main_table,
    ordered,
    remarks,
)
from hpm_jax.storage import write
from hpm_jax.visualize import page
from hpm_jax.visualize.config_table import config_tables

DRAWS = 1000  # of the bootstrap
# what only the primary measure has: the margin is its own, and so is Holm's family
_VERDICT = ("p_holm", "p_equivalent", "bootstrap", "verdict")
_BASELINES = {
    "raw_pixels": "the measures on pixels, without any model",
    "random_weights": "the measures on a model that is not trained",
}


class PageDesign(NamedTuple):
    """What a comparison has written down before its runs.

    Attributes:
        arms: what each arm is, by name, in the order of the tables.
        contrasts: registered; Holm's correction is over all of them.
        primary: the measure of the verdicts. `secondary`: the others, explored.
        margin: of equivalence, in units of the primary measure (0.01 is one point).
        command: what makes the cells and this page again.
        notes: sentences on data, budget and what to keep in mind.
        options: of the task, for `results.html`; None for none.
    """

    title: str
    arms: Mapping[str, str]
    contrasts: Sequence[Contrast]
    primary: str
    secondary: Sequence[str]
    margin: float
    command: str
    notes: Sequence[str] = ()
    options: Any = None


class _Heading(NamedTuple):
    text: str


class _Bullets(NamedTuple):
    lines: list[str]


class _Picture(NamedTuple):
    name: str  # of the file beside results.md, without its ending
    title: str
    png: bytes


class _Code(NamedTuple):
    text: str


_Block = str | Table | _Heading | _Bullets | _Picture | _Code


def write_page(
    folder: Path, cells: Cells, design: PageDesign, pictures: Mapping[str, bytes] | None = None
) -> list[Result]:
    """Writes `results.md` with its pictures, `results.html` and `results.json`.

    Args:
        pictures: PNG files, such as masks, by title.

    Returns:
        The contrasts on the primary measure.

    Raises:
        StorageError: where something cannot be written.
        CellError: for arms that are measured on different test images.
    """
    primary = describe(design.primary)
    results = analyse(
        cells, design.contrasts, design.primary, design.margin, primary.rises, draws=DRAWS
    )
    secondary = {
        name: analyse(cells, design.contrasts, name, design.margin, describe(name).rises)
        for name in design.secondary
    }
    blocks = _blocks(cells, design, results, secondary, pictures or {})
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, _Picture):
            write(folder / f"{block.name}.png", block.png)
    text = "\n\n".join([f"# {design.title}", *map(_markdown, blocks)])
    write(folder / "results.md", text + "\n")
    write(folder / "results.html", _html(design.title, blocks, design.options))
    numbers = _clean(_numbers(cells, design, results, secondary))
    write(folder / "results.json", json.dumps(numbers, indent=1) + "\n")
    return results


def _blocks(
    cells: Cells,
    design: PageDesign,
    results: Sequence[Result],
    secondary: Mapping[str, Sequence[Result]],
    pictures: Mapping[str, bytes],
) -> list[_Block]:
    primary = describe(design.primary)
    blocks: list[_Block] = []
    said = [*design.notes, *remarks(cells, design.arms)]
    if said:
        blocks.append(_Bullets(said))
    blocks += [
        _Heading("Results"),
        "Means over seeds, ± the standard deviation over seeds. FLOPs are relative to the "
        "cheapest arm.",
        main_table(cells, design.arms, [design.primary, *design.secondary]),
        _Picture(
            "results",
            f"{primary.title} of every arm, and the contrasts",
            draw_results(cells, design.arms, results, primary, design.margin),
        ),
        _Heading(f"Contrasts: {primary.title}"),
        contrast_table(results, primary),
        _explanation(design),
    ]
    if secondary:
        blocks += [
            _Heading("Contrasts: secondary measures (exploratory)"),
            "Differences with 95 % intervals that are not corrected for their number: some leave "
            "out zero by chance.",
            exploratory_table(secondary),
        ]
    curves = draw_training(cells, design.arms)
    if curves:
        title = "Curves of training: means over seeds and their range"
        blocks += [_Heading("Training"), _Picture("curves", title, curves)]
    if pictures:
        blocks.append(_Heading("Pictures"))
    for number, (title, png) in enumerate(pictures.items()):
        blocks.append(_Picture(f"picture_{number}", title, png))
    about = {**_BASELINES, **design.arms}
    arms = [[name, about[name]] for name in ordered(cells, design.arms)]
    blocks += [
        _Heading("Design"),
        Table(["arm", "what it is"], arms, words=(0, 1)),
        _Bullets(_facts(cells)),
        _Code(design.command),
    ]
    return blocks


def _explanation(design: PageDesign) -> str:
    primary = describe(design.primary)
    margin = f"{design.margin * primary.scale:g}"
    if primary.percent:
        margin += " point" if margin == "1" else " points"
    return (
        "The contrasts and their claims were written down before the runs. The same seed has the "
        "same start, data order and random numbers in every arm, so differences are paired. With "
        "a result for each test image, an interval covers both new seeds and new test images; "
        "otherwise it is that of a paired t test over seeds. Held: significant at 5 % after "
        "Holm's correction, as claimed. Contradicted: significant, the other way. No effect: not "
        f"significant, and equivalent within ± {margin} (two one-sided tests at 5 %). Not seen: "
        "none of these. Detectable: the smallest difference that is seen with power 80 %, before "
        "correction."
    )


def _facts(cells: Cells) -> list[str]:
    """Machines, versions and cost, as far as the cells know them."""
    there = list(cells.values())
    if not there:
        return ["There is no finished cell yet."]
    seeds = sorted({cell.seed for cell in there})
    hours = {
        name: sum(cell.cost.get(f"{name}_seconds", 0.0) for cell in there) / 3600
        for name in ("train", "measure")
    }
    runs = sum(cell.arm not in BASELINES for cell in there)
    checkpoints = sorted({len(cell.checkpoints) for cell in there if cell.arm not in BASELINES})
    lines = [
        f"Runs: {runs}, and {len(there) - runs} cells of baselines; seeds {_join(seeds)}.",
        f"Machine: {_join(sorted({cell.machine for cell in there}))}; "
        f"{hours['train']:.1f} hours of training, {hours['measure']:.1f} hours of measuring.",
        f"hpm_jax {_join(sorted({cell.version for cell in there}))}; "
        f"design {_join(sorted({cell.design for cell in there}))}.",
    ]
    if checkpoints and checkpoints[-1] > 1:
        lines.append(f"Measures are means over the last {_join(checkpoints)} checkpoints of a run.")
    return lines


def _join(words: Sequence[Any]) -> str:
    return ", ".join(map(str, words))


def _markdown(block: _Block) -> str:
    match block:
        case _Heading(text):
            return f"## {text}"
        case _Bullets(lines):
            return "\n".join(f"- {line}" for line in lines)
        case _Picture(name, title, _):
            return f"![{title}]({name}.png)"
        case _Code(text):
            return f"```\n{text}\n```"
        case Table():
            return block.markdown()
        case _:
            return block


def _html(title: str, blocks: Sequence[_Block], options: Any) -> str:
    """A page that needs no other file."""
    body = [f"<h1>{html.escape(title)}</h1>", *map(_element, blocks)]
    if options is not None:
        body.append(config_tables(options))
    return page.page(title, body)


def _element(block: _Block) -> str:
    match block:
        case _Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case _Bullets(lines):
            return page.bullets(lines)
        case _Picture(_, title, png):
            data = base64.b64encode(png).decode()
            image = f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
            return f'<p class="sheet">{image}</p>'
        case _Code(text):
            return page.code(text)
        case Table(header, rows, words):
            return page.table(header, rows, words)
        case _:
            return page.paragraph(block)


def _numbers(
    cells: Cells,
    design: PageDesign,
    results: Sequence[Result],
    secondary: Mapping[str, Sequence[Result]],
) -> dict[str, Any]:
    """Everything the page shows, in units of the measures: accuracies are 0..1."""
    measures = [design.primary, *design.secondary]
    return {
        "title": design.title,
        "primary": design.primary,
        "margin": design.margin,
        "cells": [
            {"arm": arm, "seed": seed, "images": cell.images, "flops": cell.flops}
            | {"cost": cell.cost, "machine": cell.machine, "version": cell.version}
            | {"measures": {name: value(cell, name) for name in measures}}
            for (arm, seed), cell in sorted(cells.items())
        ],
        "contrasts": [_result(result) for result in results],
        "exploratory": {
            name: [_result(result, _VERDICT) for result in found]
            for name, found in secondary.items()
        },
    }


def _result(result: Result, without: Sequence[str] = ()) -> dict[str, Any]:
    found = result.found._asdict() if result.found else None
    numbers = result._asdict() | {"contrast": result.contrast._asdict(), "found": found}
    return {name: number for name, number in numbers.items() if name not in without}


def _clean(numbers: Any) -> Any:
    """Numbers that JSON does not have (nan, inf) as null."""
    if isinstance(numbers, dict):
        return {name: _clean(number) for name, number in numbers.items()}
    if isinstance(numbers, list | tuple):
        return [_clean(number) for number in numbers]
    return None if isinstance(numbers, float) and not math.isfinite(numbers) else numbers
