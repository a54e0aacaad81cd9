"""Masks of every arm at the end of its run, on the same test images, stored in its cell."""

import base64
import dataclasses
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
from hpm_jax.step.mask import make_mask, mask_context, read_networks
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import TrainState
from hpm_jax.visualize.masks import painted
from hpm_jax.visualize.sheet import draw_sheet
from hpm_jax.visualize.view import patch_status

IMAGES = 6
SIDE = 96  # of a panel, pixels


def kept_images(pixels: np.ndarray) -> dict[str, Any]:
    """Returns the first images `[N, H, W, C]` uint8 side by side, as a PNG in base64."""
    strip = np.concatenate(list(pixels[:IMAGES]), axis=1)
    file = io.BytesIO()
    Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip).save(file, "PNG")
    return {"images": base64.b64encode(file.getvalue()).decode(), "count": IMAGES}


def masks_at_the_end(
    model: MaskedAutoencoder, method: Method, state: TrainState, pixels: np.ndarray, n_hard: int
) -> dict[str, Any]:
    """Returns the status of units of the first images: 0 visible, 1 hidden, 2 hidden as hard.

    Args:
        state: final state of the run, with the teacher.
        pixels: uint8 test images.
        n_hard: number of units to choose as hard ones.
    """
    schedule = Schedule(np.float32(0), np.float32(0), np.int32(n_hard))
    images = pixels[:IMAGES]
    everything = dataclasses.replace(method, queried=0)

    @jax.jit
    def choose(state: TrainState, images: Array) -> tuple[Array, Array]:
        patches = jnp.repeat(method.patches(images), method.views, axis=0)
        readings = read_networks(model, method, state, patches, jnp.int32(n_hard)).units
        mask = make_mask(everything, state, patches, jax.random.key(0), schedule, readings)
        context = mask_context(method, state, patches, jnp.int32(n_hard), readings)
        hard = method.strategy.hard(context)
        nothing = jnp.zeros(context.shape, bool)
        return mask.hide[:: method.views], (nothing if hard is None else hard)[:: method.views]

    hide, hard = map(np.asarray, choose(state, images))
    units = method.unit.grid[1] * method.unit.grid[2]
    status = patch_status(hide[:, : method.hidden] % units, hard, units)
    return {"fate": ["".join(map(str, row)) for row in status], "grid": list(method.unit.grid)}


def draw_arms(cells: Cells, arms: Mapping[str, str]) -> bytes | None:
    """Draws a PNG with a row for each arm whose cells have masks, and a column for each image.

    Returns None without the images, which are in the cell of raw pixels.
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
            status = np.array([[int(digit) for digit in row] for row in found["fate"]])
            _, rows, columns = found["grid"]
            blocks.append({name: painted(images, status, (1, rows, columns))})
    if len(blocks) == 1:
        return None
    note = "grey: hidden; orange: hidden because hard (or easy), at the end of the run"
    sheet = draw_sheet(blocks, [""] * len(images), "Masks of each arm", note, SIDE)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
