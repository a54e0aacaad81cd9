"""Pictures of segmented images: image, truth, prediction, and where the two differ."""

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from hpm_jax.evaluation.segmenting import Segmentation

NAMED = 24  # classes of the legend at most
LONGEST = 400  # pixels of a drawn side
LEFT_OUT, RIGHT, WRONG = (0, 0, 0), (255, 255, 255), (200, 30, 30)


def palette(classes: int) -> np.ndarray:
    """Returns a colour for each class: uint8 `[classes, 3]`, distinct for 20 classes."""
    if classes <= 20:
        return np.array([colormaps["tab20"](k, bytes=True)[:3] for k in _spread(classes)], np.uint8)
    turn = (1 + 5**0.5) / 2  # hues by the golden ratio are far apart for any number
    colors = [
        colorsys.hsv_to_rgb((k / turn) % 1, 0.5 + 0.4 * (k % 2), 0.6 + 0.13 * (k % 4))
        for k in range(classes)
    ]
    return np.rint(255 * np.array(colors)).astype(np.uint8)


def _spread(classes: int) -> list[int]:
    """The strong colours of "tab20" first, then their light ones."""
    return [*range(0, 20, 2), *range(1, 20, 2)][:classes]


def draw(segmented: Sequence[Segmentation], classes: Sequence[str], title: str) -> bytes:
    """Draws a PNG with a row per image, and the colours of the classes that occur."""
    colors = palette(len(classes))
    rows = [panels(one, colors) for one in segmented]
    aspect = max(row[0].shape[0] / row[0].shape[1] for row in rows)
    names = ("image", "truth", "prediction", "wrong")
    figure = Figure(figsize=(3 * len(names), 3 * aspect * len(rows) + 1.2), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    for number, some in enumerate(rows):
        for axis, name, panel in zip(axes[number], names, some, strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if number == 0:
                axis.set_title(name, fontsize=10)
    found = np.unique(np.concatenate([_labels(one) for one in segmented]))
    handles = [Patch(color=colors[k] / 255, label=classes[k]) for k in found[:NAMED]]
    handles.append(Patch(color=LEFT_OUT, label="left out"))
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, title, fontsize=10, weight="bold", va="top")
    figure.legend(handles=handles, loc="lower center", ncols=8, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.7 / height, 1, 1 - 0.25 / height), pad=0.4, h_pad=0.8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _labels(one: Segmentation) -> np.ndarray:
    return np.union1d(one.truth[one.truth >= 0], one.predicted)


def panels(one: Segmentation, colors: np.ndarray) -> list[np.ndarray]:
    """Returns image, truth, prediction and errors, uint8 `[h, w, 3]`, reduced for drawing."""
    known = one.truth >= 0
    truth = np.where(known[..., None], colors[one.truth], np.uint8(0))
    wrong = np.where((one.truth == one.predicted)[..., None], RIGHT, WRONG)
    wrong = np.where(known[..., None], wrong, LEFT_OUT).astype(np.uint8)
    image = one.pixels[..., :3]
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    image = np.repeat(image[..., :1], 3, axis=-1) if image.shape[-1] < 3 else image
    return [_reduced(panel) for panel in (image, truth, colors[one.predicted], wrong)]


def _reduced(panel: np.ndarray) -> np.ndarray:
    share = min(1.0, LONGEST / max(panel.shape[:2]))
    size = [max(1, round(side * share)) for side in panel.shape[1::-1]]
    return np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.NEAREST))
