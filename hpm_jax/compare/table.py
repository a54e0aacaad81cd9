"""The tables of a comparison, from its cells alone."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hpm_jax.compare.cells import BASELINES, DETERMINISTIC, Cell, Cells, value
from hpm_jax.compare.statistics import Result

NOTHING = "-"  # in a table, for what was not measured


class Table(NamedTuple):
    """Rows of text, as long as the header; the columns `words` are no numbers."""

    header: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)

    def markdown(self) -> str:
        """Words to the left, numbers to the right."""
        rule = ["---" if i in self.words else "--:" for i in range(len(self.header))]
        escaped = [[text.replace("|", r"\|") for text in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.header, rule, *escaped])


class Measure(NamedTuple):
    """How a measure is written: in per cent and points, or as it is."""

    name: str
    title: str
    percent: bool = True
    rises: bool = True  # more is better

    @property
    def scale(self) -> float:
        """From the numbers of a cell to those of a table."""
        return 100.0 if self.percent else 1.0

    def heading(self, unit: str = "%") -> str:
        """The title with its unit, and with the direction where less is better."""
        unit = f", {unit}" if self.percent else ""
        return f"{self.title}{unit}{'' if self.rises else ' (lower is better)'}"

    def text(self, number: float, signed: bool = False) -> str:
        """A value, with one digit for per cent; a signed difference has one digit more.

        The end of an interval that is rounded to zero keeps its sign: it tells whether zero is in.
        """
        digits = (1 if self.percent else 4) + (signed and self.percent)
        return f"{number * self.scale:{'+' if signed else ''}.{digits}f}"


_MEASURES = (
    Measure("logistic", "logistic regression"),
    Measure("knn", "kNN"),
    Measure("patch", "patch probe"),
    Measure("held_out", "held-out loss", percent=False, rises=False),
    Measure("explained", "explained variance"),
    Measure("ranking", "pairs ranked correctly"),
)


def describe(name: str) -> Measure:
    """How a measure is written; one that is not known is a share, unless it is called a loss."""
    for known in _MEASURES:
        if known.name == name:
            return known
    kind, _, share = name.rpartition("_")
    if kind in ("finetune", "scratch"):
        title = {"finetune": "fine-tuned", "scratch": "from scratch"}[kind]
        return Measure(name, f"{title}, {share} % of the labels")
    is_loss = "loss" in name
    return Measure(name, name.replace("_", " "), percent=not is_loss, rises=not is_loss)


def of_arm(cells: Cells, arm: str) -> list[Cell]:
    """The cells of an arm, by seed."""
    return [cells[key] for key in sorted(cells) if key[0] == arm]


def values(cells: Cells, arm: str, measure: str) -> np.ndarray:
    """A measure of every seed that has it, `[S]`."""
    found = [value(cell, measure) for cell in of_arm(cells, arm)]
    return np.array([number for number in found if number is not None], float)


def ordered(cells: Cells, arms: Mapping[str, str]) -> list[str]:
    """The arms in the order of the config, and after them the baselines that are known."""
    baselines = [name for name in BASELINES if name in arms or of_arm(cells, name)]
    return [name for name in arms if name not in BASELINES] + baselines


def mean_and_deviation(numbers: np.ndarray, measure: Measure) -> str:
    """`52.3 ± 0.4`: the mean and the sample standard deviation over seeds, none for one seed."""
    if not len(numbers):
        return NOTHING
    spread = f" ± {measure.text(numbers.std(ddof=1))}" if len(numbers) > 1 else ""
    return measure.text(numbers.mean()) + spread


def main_table(cells: Cells, arms: Mapping[str, str], measures: Sequence[str]) -> Table:
    """One row for each arm: every measure, and what it cost."""
    written = [describe(name) for name in measures]
    names = ordered(cells, arms)
    least = min((cell.flops for cell in cells.values() if cell.flops > 0), default=1.0)
    rows = []
    for name in names:
        there = of_arm(cells, name)
        row = [name, str(len(there))]
        row += [mean_and_deviation(values(cells, name, each.name), each) for each in written]
        row += [
            _mean([cell.images for cell in there], "{:,.0f}"),
            _mean([cell.flops / least for cell in there], "{:.2f}"),
            _mean(
                [
                    cell.cost["seconds_per_step"]
                    for cell in there
                    if cell.cost.get("seconds_per_step")
                ],
                "{:.3g}",
            ),
        ]
        rows.append(row)
    header = ["arm", "seeds", *(each.heading() for each in written)]
    return Table([*header, "images", "relative FLOPs", "seconds a step"], rows)


def _mean(numbers: Sequence[float], style: str) -> str:
    """Of what is the same for all seeds or nearly so; nothing for a baseline's zeros."""
    return style.format(np.mean(numbers)) if len(numbers) and any(numbers) else NOTHING


def remarks(cells: Cells, arms: Mapping[str, str]) -> list[str]:
    """What a reader has to know before the numbers: arms that are missing, or have one seed."""
    counts = {name: len(of_arm(cells, name)) for name in ordered(cells, arms)}
    most = max(counts.values(), default=0)
    remark_of = {
        0: "No finished cell: contrasts with it are open.",
        1: "One seed: no deviation and no interval.",
    } | {n: f"{n} of {most} seeds: contrasts use common seeds." for n in range(2, most)}
    said = []
    for count, remark in remark_of.items():
        baselines = DETERMINISTIC if count else ()  # one seed is all that these have
        names = [x for x, n in counts.items() if n == count and x not in baselines]
        if names:
            said.append(f"{remark} Arms: {', '.join(names)}.")
    for name in sorted({arm for arm, _ in cells} - set(counts)):
        said.append(f"Cells of {name} are left out: it is no arm of this comparison.")
    return said


def contrast_name(result: Result) -> str:
    """`hpm - mae`."""
    return f"{result.contrast.better} - {result.contrast.worse}"


def contrast_table(results: Sequence[Result], measure: Measure) -> Table:
    """The registered contrasts on the primary measure, with their verdicts."""
    unit = ", points" if measure.percent else ""
    header = ["contrast", "claim", "seeds", f"difference{unit}", "95 % interval"]
    header += ["p (Holm)", f"detectable{unit}", "verdict"]
    rows = []
    for result in results:
        found = result.found
        row = [contrast_name(result), result.contrast.claim, str(found.seeds if found else 0)]
        row.append(measure.text(found.difference, signed=True) if found else NOTHING)
        row += [_interval(result, measure), p_text(result.p_holm)]
        known = math.isfinite(result.detectable)
        row.append(measure.text(result.detectable, signed=True)[1:] if known else NOTHING)
        rows.append([*row, result.verdict])
    return Table(header, rows, words=(0, 1, len(header) - 1))


def exploratory_table(results: Mapping[str, Sequence[Result]]) -> Table:
    """Contrasts by secondary measures: differences with uncorrected intervals, no verdicts."""
    written = [describe(name) for name in results]
    rows = []
    for row in zip(*results.values(), strict=True):
        texts = [contrast_name(row[0])]
        for result, measure in zip(row, written, strict=True):
            if result.found is None:
                texts.append(NOTHING)
                continue
            interval = _interval(result, measure)
            known = "" if interval == NOTHING else f" {interval}"
            texts.append(measure.text(result.found.difference, signed=True) + known)
        rows.append(texts)
    return Table(["contrast", *(each.heading("points") for each in written)], rows)


def _interval(result: Result, measure: Measure) -> str:
    if result.found is None or not math.isfinite(result.found.error):
        return NOTHING
    low, high = (measure.text(edge, signed=True) for edge in result.found.interval)
    return f"[{low}, {high}]"


def p_text(p: float) -> str:
    """Three digits after the point, `< 0.001` below them."""
    if math.isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
