"""Curves as SVG inside a page: text that scales, colours of the page, light and dark."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from hpm_jax.visualize.curves import CURVES, is_drawn
from hpm_jax.visualize.numbers import Baseline, baseline

WIDTH, HEIGHT = 360, 190  # of the drawing, in its own units: about pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 8, 32  # margins
DOTS = 30  # a curve of fewer points shows them
POINTS = 240  # of a curve at most; more are averaged
SHARES = {  # shown as percentages
    "top1",
    "logistic",
    "knn",
    "ranked_correctly",
    "explained",
    "miou",
    "pixel_accuracy",
    "mean_class_accuracy",
    "box_ap",
    "box_ap50",
    "mask_ap",
}
SERIES = 6  # colours in the style sheet

Point = tuple[float, float]


def charts(runs: Mapping[str, Sequence[dict]]) -> list[str]:
    """One `<figure>` for each quantity of `CURVES` that a run has measured.

    Args:
        runs: the lines of each run's `metrics.jsonl`, by its name.
    """
    found = []
    measured = {
        name: {run: some for run, lines in runs.items() if (some := points_of(lines, name))}
        for name in CURVES
    }
    epochs = [e for points in measured.values() for some in points.values() for e, _ in some]
    for name, points in measured.items():
        if points:
            base = baseline(name, next(iter(runs.values())))
            colors = {run: number % SERIES for number, run in enumerate(runs)}
            found.append(chart(name, points, colors, max(epochs), base))
    return found


def points_of(lines: Sequence[dict], name: str) -> list[Point]:
    """(epoch, value) of each line that has a finite one; long curves as means of their parts."""
    found = [
        (float(line["epoch"]), float(line[name]))
        for line in lines
        if isinstance(line.get(name), int | float)
        and math.isfinite(line[name])
        and is_drawn(name, line[name])
        and isinstance(line.get("epoch"), int | float)
    ]
    if len(found) <= POINTS:
        return found
    parts = np.array_split(np.array(found), POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def chart(
    name: str,
    points: Mapping[str, Sequence[Point]],
    colors: Mapping[str, int],
    end: float,
    base: Baseline | None,
) -> str:
    """The `<figure>` of one quantity.

    Args:
        points: of each run.
        colors: the number of its colour.
        end: the last epoch of the axis.
        base: what is reached without the model, a dashed line; None for none.
    """
    values = [value for some in points.values() for _, value in some]
    values += [base.value] if base else []
    title, end = CURVES[name], max(end, 1e-9)
    x_ticks = [epoch for epoch in ticks(0.0, end, 5) if epoch <= end * 1.001]
    y_ticks = ticks(min(values), max(values), 4)
    low, high = y_ticks[0], y_ticks[-1]

    def x(epoch: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * epoch / end:.1f}"

    def y(value: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low):.1f}"

    bottom, right, parts = HEIGHT - BOTTOM, WIDTH - RIGHT, []
    for value in y_ticks:
        parts.append(_line("rule", (LEFT, right), (y(value), y(value))))
        parts.append(_text("y", LEFT - 6, y(value), label(name, value, y_ticks), ".32em"))
    for epoch in x_ticks:
        parts.append(_text("x", x(epoch), bottom + 16, f"{epoch:g}"))
    if base:
        below = base.value > high - 0.12 * (high - low)  # where there is no room above the line
        text, level = f"{base.title} {shown(name, base.value)}", y(base.value)
        parts.append(_line("base", (LEFT, right), (level, level)))
        parts.append(_text("base", right, level, text, "13" if below else "-5"))
    for run, some in points.items():
        places = [(x(epoch), y(value)) for epoch, value in some]
        line, color = " ".join(",".join(place) for place in places), f"s{colors[run]}"
        parts.append(f'<polyline class="{color}" points="{line}"/>')
        if len(some) < DOTS:
            parts += [f'<circle class="{color}" cx="{a}" cy="{b}" r="2.4"/>' for a, b in places]
    # the script moves this line to the epoch of the pictures that are shown
    scale = f'data-left="{LEFT}" data-width="{right - LEFT}" data-end="{end:g}"'
    parts.append(_line("now", (-9, -9), (TOP, bottom), scale))
    parts.append(_text("axis", right, HEIGHT - 2, "epoch"))
    spoken = html.escape(f"{title}. {described(name, points)}", quote=True)
    last = shown(name, next(iter(points.values()))[-1][1]) if len(points) == 1 else ""
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)} <b>{last}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _line(kind: str, x: tuple[Any, Any], y: tuple[Any, Any], more: str = "") -> str:
    return f'<line class="{kind}" x1="{x[0]}" x2="{x[1]}" y1="{y[0]}" y2="{y[1]}" {more}/>'


def _text(kind: str, x: Any, y: Any, text: str, down: str = "0") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" dy="{down}">{html.escape(text)}</text>'


def described(name: str, points: Mapping[str, Sequence[Point]]) -> str:
    """The curves in words, for who cannot see them."""
    return " ".join(
        f"{run}: {shown(name, some[0][1])} at epoch {some[0][0]:.4g}, "
        f"{shown(name, some[-1][1])} at epoch {some[-1][0]:.4g}."
        for run, some in points.items()
    )


def shown(name: str, value: float) -> str:
    """A value as text."""
    return f"{value:.1%}" if name.split("/")[-1] in SHARES else f"{value:.4g}"


def label(name: str, value: float, all_ticks: Sequence[float]) -> str:
    """A tick as text, with as many digits as its neighbours need."""
    step = all_ticks[1] - all_ticks[0]
    if name.split("/")[-1] in SHARES:
        return f"{value:.{_decimals(100 * step)}%}"
    return f"{value:g}" if abs(value) >= 1e5 else f"{value:.{_decimals(step)}f}"


def _decimals(step: float) -> int:
    """Digits after the point that tell neighbours apart: none at 10, one at 2.5 and at 0.2."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return digits if abs(step * 10**digits - round(step * 10**digits)) < 1e-6 else digits + 1


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that cover `low` to `high`, two at least."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = 0.5 * max(abs(high), 1e-3)
        low, high = low - margin * (low != 0), high + margin
    found = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    inside = [float(value) for value in found]
    while len(inside) > 2 and inside[1] <= low:
        inside.pop(0)
    while len(inside) > 2 and inside[-2] >= high:
        inside.pop()
    return inside
