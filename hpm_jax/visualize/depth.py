"""Pictures of depth: image, truth, prediction and their ratio."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NAMES = ("image", "truth", "prediction", "prediction / truth")
RATIO = 2.0  # at the ends of the colours


class DepthPicture(NamedTuple):
    """An image and its depth, in metres."""

    pixels: np.ndarray  # [h, w, C]
    truth: np.ndarray  # [h, w], 0 where invalid
    predicted: np.ndarray  # [h, w]


def draw_depth(pictures: Sequence[DepthPicture], title: str) -> bytes:
    """Draws a PNG with a row per image; near is dark, and invalid pixels are black."""
    aspect = max(one.truth.shape[0] / one.truth.shape[1] for one in pictures)
    figure = Figure(figsize=(3 * len(NAMES), 3 * aspect * len(pictures) + 0.8), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pictures), len(NAMES), squeeze=False)
    for row, one in zip(axes, pictures, strict=True):
        for axis, name, panel in zip(row, NAMES, panels(one), strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row is axes[0]:
                axis.set_title(name, fontsize=10)
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, title, fontsize=10, weight="bold", va="top")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / height), pad=0.4)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def panels(one: DepthPicture) -> list[np.ndarray]:
    """Returns the four panels, uint8 `[h, w, 3]`; truth and prediction share one scale."""
    valid = one.truth > 0
    known = one.truth[valid] if valid.any() else one.predicted.ravel()
    low, high = float(known.min()), max(float(known.max()), float(known.min()) + 1e-6)
    depth = colormaps["viridis"]
    ratio = np.log(one.predicted / np.where(valid, one.truth, 1)) / (2 * np.log(RATIO)) + 0.5

    def colored(values, colors):
        return colors(np.clip(values, 0, 1), bytes=True)[..., :3]

    shown: list[np.ndarray] = [
        colored((one.truth - low) / (high - low), depth),
        colored((one.predicted - low) / (high - low), depth),
        colored(ratio, colormaps["coolwarm"]),
    ]
    for place in (0, 2):
        shown[place] = np.where(valid[..., None], shown[place], 0).astype(np.uint8)
    image = one.pixels[..., :3]
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    image = np.repeat(image[..., :1], 3, axis=-1) if image.shape[-1] < 3 else image
    return [image, *shown]
