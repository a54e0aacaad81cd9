"""Pictures of detected objects: boxes and masks, annotated and found."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from hpm_jax.detection.rasters import decode
from hpm_jax.evaluation.detecting import Shown
from hpm_jax.visualize.segments import NAMED, palette

DRAWN = 0.5  # score from which a detection is drawn
OPACITY = 0.45  # of masks


def draw(shown: Sequence[Shown], classes: Sequence[str], title: str) -> bytes:
    """Draws a PNG with a row per image: its annotated objects, and those found."""
    colors = palette(len(classes))
    aspect = max(one.pixels.shape[0] / one.pixels.shape[1] for one in shown)
    figure = Figure(figsize=(9, 4.5 * aspect * len(shown) + 1.0), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for row, one in zip(axes, shown, strict=True):
        truth, found, size = one.pair
        there = np.flatnonzero(found.scores >= DRAWN)
        masks = [None if found.masks is None else found.masks[place] for place in there]
        known = ~truth.crowds
        annotated = [truth.masks[place] for place in np.flatnonzero(known)]
        panel(row[0], one.pixels, size, truth.boxes[known], truth.classes[known], annotated, colors)
        panel(row[1], one.pixels, size, found.boxes[there], found.classes[there], masks, colors)
        for place in there:
            left, top = found.boxes[place, :2]
            row[1].text(left, top, f"{found.scores[place]:.2f}", fontsize=6, va="bottom")
    axes[0][0].set_title("annotated", fontsize=10)
    axes[0][1].set_title(f"found, score from {DRAWN:g}", fontsize=10)
    labels = np.unique(
        np.concatenate([np.append(one.pair.truth.classes, one.pair.found.classes) for one in shown])
    )
    handles = [Patch(color=colors[k] / 255, label=classes[k]) for k in labels[:NAMED].astype(int)]
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, title, fontsize=10, weight="bold", va="top")
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=8, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.5 / height, 1, 1 - 0.25 / height), pad=0.4, h_pad=0.8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def panel(
    axis: Any,
    pixels: np.ndarray,
    size: tuple[int, int],
    boxes: np.ndarray,
    classes: np.ndarray,
    masks: Sequence[Any],
    colors: np.ndarray,
) -> None:
    """Draws an image with its objects; masks are polygons, RLE or None."""
    axis.imshow(painted(pixels, size, classes, masks, colors), interpolation="nearest")
    axis.set(xticks=[], yticks=[], xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    axis.spines[:].set_visible(False)
    for (left, top, right, bottom), label in zip(boxes, classes, strict=True):
        corner, color = (left - 0.5, top - 0.5), colors[label] / 255
        axis.add_patch(
            Rectangle(corner, right - left, bottom - top, fill=False, color=color, linewidth=1.2)
        )


def painted(
    pixels: np.ndarray,
    size: tuple[int, int],
    classes: np.ndarray,
    masks: Sequence[Any],
    colors: np.ndarray,
) -> np.ndarray:
    """Returns the image in three channels, uint8 `[h, w, 3]`, with masks laid over it."""
    image = pixels[..., :3]
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    image = np.repeat(image[..., :1], 3, axis=-1) if image.shape[-1] < 3 else image.copy()
    for mask, label in zip(masks, classes, strict=True):
        if mask is not None:
            inside = decode(mask, size)
            mixed = (1 - OPACITY) * image[inside] + OPACITY * colors[label]
            image[inside] = np.rint(mixed).astype(np.uint8)
    return image
