"""Draws a contact sheet of some of the images."""

import numpy as np
from PIL import Image, ImageDraw

from hpm_jax.data.decoding import BrokenImage
from hpm_jax.data.records import Splits
from hpm_jax.data.statistics import Statistics, stored_pixels

SIDE, COLUMNS, ROWS, LINE = 128, 8, 6, 14


def contact_sheet(splits: Splits, data, statistics: Statistics) -> Image.Image:
    """Draws up to 48 evenly spaced training images with their classes; the first three channels.

    Values are scaled by the range of the data, which 16-bit and float images need.
    """
    count = min(COLUMNS * ROWS, len(splits.train))
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-count // COLUMNS) * (SIDE + LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, index in enumerate(np.linspace(0, len(splits.train) - 1, count).astype(int)):
        left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + LINE)
        try:
            example = splits.train[int(index)]
            pixels = stored_pixels(example["image"], data)[..., :3]
        except (BrokenImage, OSError):
            pen.text((left + 4, top + 4), "cannot be read", "black")
            continue
        unit = (pixels.astype(np.float32) - statistics.low) / (statistics.high - statistics.low)
        pixels = np.rint(255 * np.nan_to_num(unit).clip(0, 1)).astype(np.uint8)
        pixels = pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE - 4, SIDE - 4))
        sheet.paste(image, (left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
        label = int(example.get("label", -1))
        if 0 <= label < len(splits.classes):
            name = splits.classes[label].encode("latin-1", "replace").decode("latin-1")
            pen.text((left + 4, top + SIDE - 1), name[:20], "black")
    return sheet
