"""Draws masks, reconstructions and losses of clips, as a strip of frames and as an animation."""

import io
import itertools

import numpy as np
from PIL import Image

from hpm_jax.visualize.panels import panels_of
from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.view import LEGEND, View

CLIPS = 3  # largest number of clips in a picture
COLUMNS = 8  # of a strip, at most
STRIP_PANEL, MOVING_PANEL = 128, 160  # their longest sides, pixels
NO_DITHER = Image.Dither.NONE  # its dots would flicker
FRAME_MS = 120  # duration of an animation frame
SCALE = "losses: dark low, bright high, from the lowest to the highest of each clip"


def draw_strip(clips: np.ndarray, view: View, title: str, note: str) -> bytes:
    """Draws a PNG: per clip the rows input, masked, rebuilt, losses, mask; per column a frame.

    There is one frame for each slot of the time grid, or for every n-th slot. If only one frame of
    a patch is reconstructed and no slot is left out, that frame is shown.

    Args:
        clips: uint8 `[B, T, H, W, C]`; of more than three channels the first three are shown.
        view: of the same clips, as numpy arrays.
    """
    panels = panels_of(clips, view)
    columns = min(view.status.shape[1], COLUMNS)
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
    """Draws a looping GIF of all frames: input, masked, rebuilt, predicted loss; a row per clip.

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


def _palette(sheets: list[Image.Image]) -> Image.Image:
    """Returns a palette of 256 colours for all sheets, so that nothing flickers."""
    some = sheets[:: max(len(sheets) // 4, 1)]
    pixels = np.concatenate([np.asarray(sheet)[::3, ::3] for sheet in some])
    return Image.fromarray(pixels).quantize(kmeans=3)
