"""Clips: what a model hides, rebuilds and expects, as a strip of frames and as an animation."""

import io
import itertools

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from PIL import Image

from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.view import FATE_COLORS, LEGEND, View, enlarge, losses_of, pixels_of

CLIPS = 3  # more do not fit into one look
COLUMNS = 8  # of a strip, at most
STRIP_PANEL, MOVING_PANEL = 128, 160  # their longest sides, pixels
NO_DITHER = Image.Dither.NONE  # its dots would flicker
FRAME_MS = 120  # how long a frame of an animation stands
SCALE = "losses: dark low, bright high, from the lowest to the highest of each clip"


def draw_strip(clips: np.ndarray, view: View, title: str, note: str) -> bytes:
    """A PNG: for each clip the rows input, masked, rebuilt, losses, mask; a frame in each column.

    There is one frame for each slot of the grid, or for every so manieth: where one frame of a
    patch is rebuilt, and no slot is left out, it is that one.

    Args:
        clips: uint8 `[B, T, H, W, C]`; of more than three channels the first three are shown.
        view: of the same clips, as numpy arrays.
    """
    panels = panels_of(clips, view)
    columns = min(view.fate.shape[1], COLUMNS)
    frames = np.linspace(0, clips.shape[1] - 1, columns).astype(int)
    blocks = [
        {name: list(panel[clip, frames]) for name, panel in panels.items()}
        for clip in range(len(clips))
    ]
    headings = [f"frame {frame + 1}" for frame in frames]
    note = f"{note}\n{SCALE}\n{LEGEND}"
    file = io.BytesIO()
    draw_sheet(blocks, headings, title, note, STRIP_PANEL).save(file, format="png")
    return file.getvalue()


def animate(clips: np.ndarray, view: View, title: str, note: str) -> bytes:
    """A GIF that loops over all frames: input, masked, rebuilt, predicted loss; a row for a clip.

    Without a loss predictor the true loss takes its place. The arguments are those of
    `draw_strip`.
    """
    panels = dict(itertools.islice(panels_of(clips, view).items(), 4))
    sheets = []
    for frame in range(clips.shape[1]):
        blocks = [
            {"": [panel[clip, frame] for panel in panels.values()]} for clip in range(len(clips))
        ]
        text = f"frame {frame + 1} of {clips.shape[1]}\n{note}\n{SCALE}"
        sheets.append(draw_sheet(blocks, list(panels), title, text, MOVING_PANEL))
    palette = _palette(sheets)
    first, *others = (sheet.quantize(palette=palette, dither=NO_DITHER) for sheet in sheets)
    file = io.BytesIO()
    first.save(file, format="gif", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
    return file.getvalue()


def panels_of(clips: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """Everything as pixels, uint8 `[B, T, H, W, 3]`; losses are scaled clip by clip."""
    pixels = pixels_of(clips, view)
    heat = colormaps["magma"].with_extremes(bad=FATE_COLORS[0])  # patches without a true loss
    maps = {name: heat(_scaled(loss), bytes=True) for name, loss in losses_of(view).items()}
    maps["mask"] = ListedColormap(FATE_COLORS)(view.fate, bytes=True)
    return {name: np.round(255 * panel).astype(np.uint8) for name, panel in pixels.items()} | {
        name: enlarge(colors[..., :3], pixels["input"]) for name, colors in maps.items()
    }


def _scaled(losses: np.ndarray) -> np.ma.MaskedArray:
    """From 0 at the lowest to 1 at the highest of each clip; NaN is left out."""
    values = np.ma.masked_invalid(losses)
    low, high = (f((1, 2, 3), keepdims=True) for f in (values.min, values.max))
    return (values - low) / np.maximum(high - low, 1e-12)


def _palette(sheets: list[Image.Image]) -> Image.Image:
    """256 colours for all sheets, so that nothing flickers; every ninth pixel of four tells."""
    some = sheets[:: max(len(sheets) // 4, 1)]
    pixels = np.concatenate([np.asarray(sheet)[::3, ::3] for sheet in some])
    return Image.fromarray(pixels).quantize(kmeans=3)
