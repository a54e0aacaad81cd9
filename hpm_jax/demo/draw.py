"""Draws the picture and the page of the demo."""

import html
import json

import numpy as np
from PIL import Image

from hpm_jax.demo.show import Shown
from hpm_jax.visualize.gallery import gallery
from hpm_jax.visualize.masks import painted
from hpm_jax.visualize.page import page, paragraph, section, table
from hpm_jax.visualize.panels import panels_of
from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.snapshot import picture_uri, snapshot
from hpm_jax.visualize.view import View

SIDE = 144  # of a panel, pixels
NOTE = (
    "input, cropped to a square; grey: hidden at random; orange: hidden because the model predicts "
    "a high loss; hidden patches rebuilt, visible ones pasted; losses from low (dark) to high; "
    "attention of the cls token in the last block"
)


def draw(
    images: np.ndarray, names: list[str], shown: dict[str, Shown], heat: list[np.ndarray]
) -> Image.Image:
    """Draws the sheet: a block for each photograph, a row for each mask."""
    panels = {label: photograph_panels(images, one.view) for label, one in shown.items()}
    blocks = []
    headings: list[str] = []
    for place, name in enumerate(names):
        rows = {}
        for label in shown:
            row = panels[label][place] | {"attention": heat[place]}
            headings = list(row)
            rows[label if len(names) == 1 else f"{name}, {label}"] = list(row.values())
        blocks.append(rows)
    title = "Hard patches: hidden, rebuilt, predicted and true loss"
    return draw_sheet(blocks, headings, title, NOTE, SIDE)


def make_page(
    images: np.ndarray, names: list[str], shown: dict[str, Shown], heat: list[np.ndarray]
) -> str:
    """Makes the page with a slider over the masks."""
    frames = []
    for number, (label, one) in enumerate(shown.items()):
        frame = json.loads(snapshot(images, one.view, number, 0.0, label, NOTE))
        for item, name, panel in zip(frame["items"], names, heat, strict=True):
            item |= {"name": name, "attention": picture_uri(panel / 255)}
        frames.append(frame | {"label": label})
    elements, data = gallery({"demo": frames}, slider="Share of hidden patches")
    rows = [
        (name, label, f"{one.explained[place]:.1%}", f"{one.interpolated[place]:.1%}")
        for place, name in enumerate(names)
        for label, one in shown.items()
    ]
    heads = ("variance of hidden patches explained", "mask", "by the model", "by interpolation")
    body = [
        f"<h1>{html.escape('Hard patches')}</h1>",
        paragraph("Move the slider; point at a patch to read its losses.", "lead"),
        section("Photographs", *elements),
        section("Numbers", table(heads, rows, (0, 1))),
    ]
    return page("Hard patches of photographs", body, data)


def photograph_panels(images: np.ndarray, view: View) -> list[dict[str, np.ndarray]]:
    """Returns the panels of each image, uint8 `[H, W, 3]`, by their headings."""
    panels = panels_of(images, view)
    del panels["mask"]  # it is painted over the photograph
    _, rows, columns = view.status.shape
    status = np.asarray(view.status).reshape(len(images), -1)
    panels["masked"] = np.stack(painted(panels["input"], status, (1, rows, columns)))
    return [{name: x[place] for name, x in panels.items()} for place in range(len(images))]
