"""The masks of every arm at the end of its run, on the same test images, kept in its cell."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from hpm_jax.compare.cells import Cells
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.choose import context_of, mask_units, readings
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import TrainState
from hpm_jax.visualize.masks import painted
from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.view import HARD, HIDDEN

IMAGES = 6
SIDE = 96  # of a panel, pixels


def kept_images(pixels: np.ndarray) -> dict[str, Any]:
    """The first images `[N, H, W, C]` uint8 side by side, as a PNG in base64."""
    strip = np.concatenate(list(pixels[:IMAGES]), axis=1)
    file = io.BytesIO()
    Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip).save(file, "PNG")
    return {"images": base64.b64encode(file.getvalue()).decode(), "count": IMAGES}


def masks_at_the_end(
    model: MaskedAutoencoder, method: Method, state: TrainState, pixels: np.ndarray, n_hard: int
) -> dict[str, Any]:
    """Which units of the first images are hidden, and which because they are hard: 1 and 2 of 0.

    Args:
        state: of the end of the run; its teacher is asked.
        pixels: uint8 test images.
        n_hard: units that are to be hard.
    """
    schedule = Schedule(np.float32(0), np.float32(0), np.int32(n_hard))
    images = pixels[:IMAGES]

    @jax.jit
    def choose(state: TrainState, images: Array) -> tuple[Array, Array]:
        patches = jnp.repeat(method.patches(images), method.views, axis=0)
        seen = readings(model, method, state, patches, jnp.int32(n_hard))
        mask = mask_units(method, state, patches, jax.random.key(0), schedule, seen)
        context = context_of(method, state, patches, jnp.int32(n_hard), seen)
        hard = method.strategy.hard(context)
        nothing = jnp.zeros(context.shape, bool)
        return mask.hide[:: method.views], (nothing if hard is None else hard)[:: method.views]

    hide, hard = map(np.asarray, choose(state, images))
    fate = np.zeros((len(images), method.unit.grid[1] * method.unit.grid[2]), int)
    np.put_along_axis(fate, hide[:, : method.hidden] % fate.shape[1], HIDDEN, axis=1)
    fate[hard & (fate == HIDDEN)] = HARD
    return {"fate": ["".join(map(str, row)) for row in fate], "grid": list(method.unit.grid)}


def draw_arms(cells: Cells, arms: Mapping[str, str]) -> bytes | None:
    """A row for each arm whose cells have masks, a column for each image, as a PNG file.

    None where the images are not there, which are in the cell of raw pixels.
    """
    pixels = cells.get(("raw_pixels", 0))
    if pixels is None or "images" not in pixels.masks:
        return None
    strip = Image.open(io.BytesIO(base64.b64decode(pixels.masks["images"]))).convert("RGB")
    images = np.stack(np.split(np.asarray(strip), pixels.masks["count"], axis=1))
    blocks = [{"test images": list(images)}]
    for name in arms:
        seeds = sorted(seed for arm, seed in cells if arm == name)
        found = next((cells[name, seed].masks for seed in seeds if cells[name, seed].masks), None)
        if found:
            fate = np.array([[int(digit) for digit in row] for row in found["fate"]])
            _, rows, columns = found["grid"]
            blocks.append({name: painted(images, fate, (1, rows, columns))})
    if len(blocks) == 1:
        return None
    note = "grey: hidden; orange: hidden because hard (or easy), at the end of the run"
    sheet = draw_sheet(blocks, [""] * len(images), "Masks of each arm", note, SIDE)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
