"""Draws masks, reconstructions and losses of fixed images."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from hpm_jax.visualize.view import FATE_COLORS, LEGEND, View, losses_of, pixels_of


def draw(images: np.ndarray, view: View, title: str, note: str) -> bytes:
    """Draws a PNG with a row per image: input, masked, rebuilt, predicted loss, true loss, mask.

    Args:
        images: uint8 `[B, H, W, C]`; of more than three channels the first three are shown.
        view: of the same images, as numpy arrays.
    """
    pixels, losses = pixels_of(images, view), losses_of(view)
    columns = len(pixels) + len(losses) + 1
    aspect = images.shape[1] / images.shape[2]
    figure = Figure(figsize=(1.5 * columns, 1.5 * aspect * len(images) + 0.9), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(images), columns, squeeze=False)
    fates = ListedColormap(FATE_COLORS)
    for row in range(len(images)):
        drawn: list[tuple] = [(name, panel[row], {}) for name, panel in pixels.items()]
        drawn += [(name, values[row], {"cmap": "magma"}) for name, values in losses.items()]
        drawn += [("mask", view.status[row], {"cmap": fates, "vmin": 0, "vmax": 2})]
        for axis, (name, panel, options) in zip(axes[row], drawn, strict=True):
            axis.imshow(panel, interpolation="nearest", **options)
            axis.set_facecolor(FATE_COLORS[0])  # patches without a true loss
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(name, fontsize=10)
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, title, fontsize=10, weight="bold", va="top")
    figure.text(0.01, 0.05 / height, f"{note}\n{LEGEND}", fontsize=7, va="bottom")
    figure.tight_layout(rect=(0, 0.4 / height, 1, 1 - 0.25 / height), pad=0.4)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
