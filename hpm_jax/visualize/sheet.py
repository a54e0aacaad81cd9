"""Panels of pixels on a sheet: in rows and columns, with a title, headings, labels and a note."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, BETWEEN = 10, 3, 16  # around the sheet, between panels, between blocks of rows
INK, FAINT = "#111111", "#555555"

Block = Mapping[str, Sequence[np.ndarray]]  # rows that belong together: their panels, by label


def draw_sheet(
    blocks: Sequence[Block], headings: Sequence[str], title: str, note: str, side: int
) -> Image.Image:
    """The panels, uint8 `[h, w, 3]` and all of one size, as large as `side` lets them be.

    Args:
        blocks: from top to bottom; a label of "" takes no room.
        headings: one for each column.
        title: above all, broken where the sheet ends.
        note: below all, broken in the same way.
        side: the longest that a side of a panel may be, in pixels.
    """
    bold, plain, small = sheet_font(13, "bold"), sheet_font(12), sheet_font(10)
    labels = [label for block in blocks for label in block]
    width, height = _fit(blocks[0][labels[0]][0], side).size
    room = max(int(plain.getlength(label)) for label in labels)
    left = MARGIN + (room + 8 if room else 0)
    right = left + len(headings) * (width + GAP) - GAP
    titles, notes = _wrap(title, bold, right - MARGIN), _wrap(note, small, right - MARGIN)
    top = MARGIN + 18 * len(titles) + 22
    bottom = top + len(labels) * (height + GAP) - GAP + (len(blocks) - 1) * BETWEEN

    sheet = Image.new("RGB", (right + MARGIN, bottom + 8 + 14 * len(notes) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(titles):
        draw.text((MARGIN, MARGIN + 18 * line), text, INK, bold)
    for line, text in enumerate(notes):
        draw.text((MARGIN, bottom + 8 + 14 * line), text, FAINT, small)
    for column, heading in enumerate(headings):
        middle = left + column * (width + GAP) + width / 2
        draw.text((middle, top - 6), heading, INK, plain, anchor="ms")
    y = top
    for block in blocks:
        for label, panels in block.items():
            draw.text((left - 8, y + height / 2), label, INK, plain, anchor="rm")
            for column, panel in enumerate(panels):
                sheet.paste(_fit(panel, side), (left + column * (width + GAP), y))
            y += height + GAP
        y += BETWEEN
    return sheet


def _fit(panel: np.ndarray, side: int) -> Image.Image:
    """A panel times, or over, a whole number, so that pixels stay squares of one size."""
    image = Image.fromarray(panel)
    longest = max(image.size)
    if longest > side:
        return image.reduce(math.ceil(longest / side))
    times = side // longest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def sheet_font(size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    """The font of matplotlib's pictures, which comes with it."""
    font = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(font_manager.findfont(font), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, but for a longer word."""
    lines = []
    for part in text.splitlines():
        lines.append("")
        for word in part.split():
            longer = f"{lines[-1]} {word}".strip()
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
    return lines
