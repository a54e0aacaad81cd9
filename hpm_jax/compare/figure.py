"""The pictures of a comparison: values and contrasts, and the curves of training."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hpm_jax.compare.cells import BASELINES, Cells
from hpm_jax.compare.statistics import Result
from hpm_jax.compare.table import Measure, contrast_name, of_arm, ordered, values

INK, FAINT, DOTS = "#222222", "#737373", "#3b7ea1"
LINES = {"raw_pixels": ("#b5651d", (0, (5, 2))), "random_weights": ("#7b6d8d", (0, (1, 1.4)))}
VERDICTS = {"held": "#1b7837", "contradicted": "#b2182b", "no effect": "#444444"}
CURVES = {
    "loss": "training loss",
    "n_hard": "hard patches an image",
    "ranked_correctly": "pairs ranked correctly",
}


def draw_results(
    cells: Cells,
    arms: Mapping[str, str],
    results: Sequence[Result],
    measure: Measure,
    margin: float,
) -> bytes:
    """A PNG: at the left every seed of every arm, at the right the registered contrasts.

    Args:
        margin: of equivalence, in units of the measure.
    """
    trained = [name for name in ordered(cells, arms) if name not in BASELINES]
    rows = max(len(trained), len(results), 2)
    figure = Figure(figsize=(11.5, 1.9 + 0.44 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_arms(left, cells, trained, measure)
    _draw_contrasts(right, results, measure, margin)
    for axis, side in ((left, "left"), (right, "right")):
        _tidy(axis)
        _legend(figure, axis, side)
    return _png(figure)


def _draw_arms(axis: Axes, cells: Cells, names: Sequence[str], measure: Measure) -> None:
    for row, name in enumerate(names):
        numbers = values(cells, name, measure.name) * measure.scale
        if not len(numbers):
            middle = axis.get_yaxis_transform()
            axis.text(0.5, row, "no cell", transform=middle, ha="center", va="center", color=FAINT)
            continue
        # a seed has the same height in all arms that have every seed: pairs can be followed
        heights = row + np.linspace(-0.2, 0.2, len(numbers)) * (len(numbers) > 1)
        named = axis.get_legend_handles_labels()[1]
        label = None if named else "one seed"
        axis.scatter(numbers, heights, 26, DOTS, alpha=0.55, linewidths=0, label=label)
        mean, label = numbers.mean(), None if named else "mean"
        axis.plot([mean] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2.4, label=label)
    for name in BASELINES:
        numbers = values(cells, name, measure.name) * measure.scale
        if len(numbers):
            color, dashes = LINES[name]
            style: dict[str, Any] = {
                "color": color,
                "linestyle": dashes,
                "linewidth": 1.6,
                "zorder": 1,
            }
            axis.axvline(numbers.mean(), label=name.replace("_", " "), **style)
        if len(numbers) > 1:
            spread = numbers.std(ddof=1)
            edges = numbers.mean() - spread, numbers.mean() + spread
            axis.axvspan(*edges, color=color, alpha=0.12, linewidth=0, zorder=0)
    _rows(axis, names)
    axis.set_title("Arms, every seed", loc="left", fontsize=11, color=INK, pad=10)
    axis.set_xlabel(measure.heading(), fontsize=9)


def _draw_contrasts(axis: Axes, results: Sequence[Result], measure: Measure, margin: float) -> None:
    edge = margin * measure.scale
    label = f"equivalent: ± {edge:g}"
    axis.axvspan(-edge, edge, color="#dfe6ea", linewidth=0, zorder=0, label=label)
    axis.axvline(0, color=FAINT, linewidth=1, zorder=1)
    beside = axis.get_yaxis_transform()
    for row, result in enumerate(results):
        color = VERDICTS.get(result.verdict, FAINT)
        axis.text(1.02, row, result.verdict, color=color, transform=beside, va="center", fontsize=9)
        if result.found is None:
            continue
        middle = result.found.difference * measure.scale
        if math.isfinite(result.found.error):
            ends = [end * measure.scale for end in result.found.interval]
            axis.plot(ends, [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
            axis.plot(ends, [row, row], "|", color=color, markersize=9, markeredgewidth=1.6)
        filled = color if result.verdict in VERDICTS else "white"
        axis.plot(middle, row, "o", color=color, markersize=7, markerfacecolor=filled)
    low, high = axis.get_xlim()
    reach = max(abs(low), abs(high), 1.25 * edge)
    axis.set_xlim(-reach, reach)
    _rows(axis, [contrast_name(result) for result in results])
    title = "Contrasts, 95 % intervals; verdicts after Holm"
    axis.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    unit = ", points" if measure.percent else ""
    axis.set_xlabel(f"difference in {measure.title}{unit}", fontsize=9)


def _rows(axis: Axes, names: Sequence[str]) -> None:
    """A name at each row, the first at the top."""
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=9)
    axis.set_ylim(max(len(names), 1) - 0.4, -0.6)


def _tidy(axis: Axes) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.tick_params(axis="x", labelsize=8, color=FAINT, labelcolor=INK)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)


def _legend(figure: Figure, axis: Axes, side: str) -> None:
    """Below all axes, in one line, at the side of its own."""
    handles, labels = axis.get_legend_handles_labels()
    style: dict[str, Any] = {"loc": f"outside lower {side}", "ncols": len(handles) or 1}
    if handles:
        style |= {"frameon": False, "fontsize": 8, "handlelength": 1.6, "columnspacing": 1.4}
        figure.legend(handles, labels, **style)


def draw_training(cells: Cells, arms: Mapping[str, str]) -> bytes | None:
    """A PNG of the curves of training, the mean over seeds and their range; None without any."""
    names = [name for name in ordered(cells, arms) if name not in BASELINES]
    there = [curve for curve in CURVES if any(cell.curve.get(curve) for cell in cells.values())]
    if not there:
        return None
    figure = Figure(figsize=(3.8 * len(there) + 0.8, 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(there), squeeze=False)[0]
    for axis, curve in zip(axes, there, strict=True):
        for number, name in enumerate(names):
            runs = [cell.curve for cell in of_arm(cells, name) if cell.curve.get(curve)]
            # seeds that stopped early are as long as the shortest
            length = min((len(run[curve]) for run in runs), default=0)
            if not length:
                continue
            steps = runs[0]["step"][:length]
            lines = np.array([run[curve][:length] for run in runs], float)
            color, dashes = f"C{number % 10}", "-" if number < 10 else "--"
            axis.plot(steps, lines.mean(axis=0), dashes, color=color, linewidth=1.5, label=name)
            edges = lines.min(axis=0), lines.max(axis=0)
            axis.fill_between(steps, *edges, color=color, alpha=0.15, linewidth=0)
        axis.set_title(CURVES[curve], fontsize=10, loc="left", color=INK)
        axis.set_xlabel("step", fontsize=9)
        _tidy(axis)
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # without the version of matplotlib, the same cells give the same file
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
