"""Stores masks, reconstructions and losses at one step in a small JSON file beside the picture.

The page of a run is made from these files, so it can be made again without the model.
"""

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hpm_jax.errors import UserError
from hpm_jax.text_files import read_json
from hpm_jax.visualize.view import View, losses_of, pixels_of

SIDE = 224  # of a stored picture, pixels at most
LOSSLESS = 64  # the longest side up to which pictures are stored without loss
FRAMES = 4  # of a clip that are stored
KEYS = {"step": int, "epoch": float, "title": str, "note": str, "items": list}


class SnapshotError(UserError, ValueError):
    """An unreadable snapshot; the message names the file."""


def snapshot(images: np.ndarray, view: View, step: int, epoch: float, title: str, note: str) -> str:
    """The JSON text of one step.

    Its `items` are the images, of clips some frames of each. An item has a `name`, its `grid`
    (rows, columns), the pictures `input` and `rebuilt` as data URIs, and for each patch in raster
    order its `status` (0 visible, 1 hidden, 2 hidden because hard), its `predicted` loss (null
    without a loss predictor) and its `true` loss (null where the patch is visible).

    Args:
        images: uint8 `[B, H, W, C]`, or clips `[B, T, H, W, C]`.
        view: of the same images, as numpy arrays.
    """
    pixels, losses = pixels_of(images, view), losses_of(view)
    clips = images.ndim == 5
    items = []
    for index in range(len(images)):
        for slot in _slots(view.status.shape[1]) if clips else [None]:
            place: Any = index if slot is None else (index, slot)
            frame: Any = (
                place if slot is None else (index, slot * images.shape[1] // view.status.shape[1])
            )
            name = (
                f"image {index + 1}" if slot is None else f"clip {index + 1}, frame {frame[1] + 1}"
            )
            items.append(
                {
                    "name": name,
                    "grid": list(view.status[place].shape),
                    "input": picture_uri(pixels["input"][frame]),
                    "rebuilt": picture_uri(pixels["rebuilt"][frame]),
                    "status": view.status[place].ravel().tolist(),
                    "predicted": _numbers(losses.get("predicted loss"), place),
                    "true": _numbers(losses["true loss"], place),
                }
            )
    found = {"step": step, "epoch": epoch, "title": title, "note": note, "items": items}
    return json.dumps(found, separators=(",", ":")) + "\n"


def read_snapshots(workdir: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The snapshots of a run in the order of their steps; [] where it has none.

    Args:
        say: gets a sentence for each file that cannot be read; it is left out.
    """
    found = []
    for path in sorted((workdir / "pictures").glob("step_*.json")):
        try:
            found.append(_checked(read_json(path, SnapshotError), path))
        except (SnapshotError, OSError) as error:
            say(f"left out of the page: {error}")
    return sorted(found, key=lambda one: one["step"])


def picture_uri(pixels: np.ndarray) -> str:
    """A picture in [0, 1], float `[H, W, 3]`, as a data URI; a large one is made smaller."""
    image = Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if max(image.size) <= LOSSLESS:
        return data_uri(image, "png", optimize=True)
    return data_uri(image, "webp", quality=80)


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """A picture in a URI, as `kind` ("png", "webp")."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _slots(count: int) -> list[int]:
    """Which slots of the time grid are stored, spread over all of them."""
    return np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int).tolist()


def _numbers(values: np.ndarray | None, place: Any) -> list[float | None] | None:
    """The map of one item, four digits each; what is not finite is null."""
    if values is None:
        return None
    return [
        float(f"{value:.4g}") if math.isfinite(value) else None for value in values[place].ravel()
    ]


def _checked(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """The snapshot itself, or a `SnapshotError` where a part of it is missing or misshapen."""
    for name, kind in KEYS.items():
        wanted = (int, float) if kind is float else kind
        if not isinstance(found.get(name), wanted):
            raise SnapshotError(f"{path} has no {name}: expected what a run of this version writes")
    for item in found["items"]:
        rows, columns = item["grid"] if _is_grid(item) else (0, 0)
        maps = [item.get(name) for name in ("status", "true", "predicted")] if rows else []
        if maps and maps[-1] is None:
            maps.pop()
        sound = maps and all(isinstance(x, list) and len(x) == rows * columns for x in maps)
        uris = [item.get(name, "") for name in ("input", "rebuilt")] if sound else []
        if not uris or not all(isinstance(x, str) and x.startswith("data:image/") for x in uris):
            raise SnapshotError(f"{path} has an item that is not whole: it is no longer as written")
    return found


def _is_grid(item: Any) -> bool:
    grid = item.get("grid") if isinstance(item, dict) else None
    return isinstance(grid, list) and len(grid) == 2 and all(type(x) is int and x > 0 for x in grid)
