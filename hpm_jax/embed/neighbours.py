"""Finds nearest neighbours of features, and draws them on a contact sheet."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpm_jax.config import Data
from hpm_jax.data.records import DataError, Records
from hpm_jax.data.views import test_view
from hpm_jax.embed.records import short_name
from hpm_jax.embed.rows import beside_of
from hpm_jax.evaluation.knn import nearest
from hpm_jax.evaluation.logistic import standardised
from hpm_jax.storage import reported
from hpm_jax.visualize.sheet import FAINT, INK, draw_sheet, sheet_font

SIDE, LINE = 128, 13  # of a panel and of a line of its caption, pixels


def nearest_neighbours(
    features: np.ndarray, queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest other rows, by cosine of features standardised over all rows.

    Args:
        features: `[N, D]`.
        queries: `[Q]` rows.
        count: number of neighbours, below N.

    Returns:
        Cosines `[Q, count]` float32, and rows `[Q, count]`, best first.

    Raises:
        DataError: if there are fewer other rows.
    """
    if not 0 < count < len(features):
        raise DataError(
            f"--neighbours={count}: expected 1 to {len(features) - 1}, as {len(features)} images "
            "are encoded"
        )
    known = jnp.asarray(features, jnp.float32)
    known, asked = standardised(known, known[queries])
    cosines, rows = (np.asarray(x) for x in nearest(asked, known, count + 1))
    # a row is its own neighbour, but not always the first where others are the same
    own = rows == np.asarray(queries)[:, None]
    own[:, -1] |= ~own.any(axis=1)
    return cosines[~own].reshape(-1, count), rows[~own].reshape(-1, count)


def contact_sheet(
    records: Records,
    data: Data,
    index: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    queries: np.ndarray,
    neighbours: tuple[np.ndarray, np.ndarray],
    title: str,
) -> Image.Image:
    """A row for each query: the image, then its neighbours with their cosines.

    Args:
        index: `[N]`: which record each row of the features is of.
        labels: `[N]`, -1 unknown.
        queries: `[Q]` rows of the features.
        neighbours: of `nearest_neighbours`.
    """
    view = test_view(data)

    def panel(row: int, cosine: float | None) -> np.ndarray:
        record = int(index[row])
        name, label = short_name(records, record, data.path), int(labels[row])
        if cosine is not None:
            name = f"{cosine:.2f}  {name}"
        known = classes[label] if 0 <= label < len(classes) else ""
        return _panel(view(records[record])["image"], name, known)

    blocks = []
    for query, cosines, rows in zip(queries, *neighbours, strict=True):
        found = [panel(row, cosine) for row, cosine in zip(rows.tolist(), cosines, strict=True)]
        blocks.append({"": [panel(int(query), None), *found]})
    headings = ["image", *map(str, range(1, neighbours[1].shape[1] + 1))]
    note = "Neighbours by the cosine of features standardised over all images."
    return draw_sheet(blocks, headings, title, note, SIDE + 2 * LINE)


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Saves it in the format of the ending."""
    with reported(path), beside_of(path) as beside:
        sheet.save(beside, Image.registered_extensions()[path.suffix.lower()])


def _panel(pixels: np.ndarray, name: str, known: str) -> np.ndarray:
    """An image, or the frame in the middle of a clip, over its name and its class: uint8."""
    while pixels.ndim > 3:
        pixels = pixels[len(pixels) // 2]
    if pixels.dtype != np.uint8:  # in [0, 1]
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    # one panel of both, as wide as a caption needs it
    sheet = Image.new("RGB", (SIDE, size[1] + 2 * LINE), "white")
    sheet.paste(image.resize(size, resample), ((SIDE - size[0]) // 2, 0))
    draw, font = ImageDraw.Draw(sheet), sheet_font(10)
    for line, (text, ink) in enumerate(((known, INK), (name, FAINT))):
        draw.text((1, size[1] + LINE * line), _cut(text, font), ink, font)
    return np.asarray(sheet)


def _cut(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The beginning and the end of a text that is too long for a panel."""
    if font.getlength(text) <= SIDE:
        return text
    for kept in range(len(text), 2, -1):
        short = f"{text[: kept // 3]}…{text[-(kept - kept // 3) :]}"
        if font.getlength(short) <= SIDE:
            return short
    return ""
