"""Masks of the demo: by predicted loss, from a picture, or a rectangle."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from hpm_jax.demo.model import DemoError
from hpm_jax.masking import hidden_count, select
from hpm_jax.masking.strategy import chosen_first, hardest
from hpm_jax.visualize.view import patch_status

WHITE = 128  # brighter pixels of a mask picture are hidden


def hide_hard(predicted: np.ndarray, ratio: float, share: float, seed: int) -> np.ndarray:
    """Hides a fraction of the hidden patches by predicted loss, the rest at random (HPM, 3.3).

    Args:
        predicted: `[B, L]`, the predicted losses.
        ratio: fraction of all patches to hide.
        share: fraction of the hidden patches with the highest predicted losses.

    Returns:
        `[B, L]`: 0 visible, 1 hidden at random, 2 hidden as hard.
    """
    try:
        count = hidden_count(predicted.shape[1], ratio)
    except ValueError as error:
        raise DemoError(f"--ratio={ratio}: {error}") from None
    hard = hardest(jnp.asarray(predicted), jnp.int32(round(share * count)))
    noise = jax.random.uniform(jax.random.key(seed), predicted.shape)
    hide = np.asarray(select(chosen_first(hard, noise), count).hide)
    return patch_status(hide, np.asarray(hard), predicted.shape[1])


def read_mask(path: Path, grid: tuple[int, int], images: int) -> np.ndarray:
    """Reads a mask picture with white as hidden: `[B, L]` as in `hide_hard`, equal for all images.

    It has one pixel per patch, or an integer number of pixels, the same along both sides.

    Raises:
        DemoError: for a file that is not a picture, or another size.
    """
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("L"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DemoError(f"--mask={path} cannot be read as a picture: {error}") from None
    rows, columns = grid
    height, width = pixels.shape
    if height % rows or width % columns or height // rows != width // columns:
        raise DemoError(
            f"--mask={path} has {width} x {height} pixels: expected {columns} x {rows}, a pixel "
            f"for each patch, or a multiple of it such as {16 * columns} x {16 * rows}"
        )
    side = height // rows
    means = pixels.reshape(rows, side, columns, side).mean(axis=(1, 3))
    return _checked(means > WHITE, f"--mask={path}", images)


def hide_rectangle(text: str, grid: tuple[int, int], images: int) -> np.ndarray:
    """Hides `left,top,right,bottom`, fractions of the image: `[B, L]` as in `hide_hard`.

    Raises:
        DemoError: for anything but four increasing fractions.
    """
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        left = top = right = bottom = -1.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise DemoError(
            f"--hide={text}: expected left,top,right,bottom as shares of the image, such as "
            "0.25,0.25,0.75,0.75"
        )
    rows, columns = ((np.arange(count) + 0.5) / count for count in grid)
    inside = ((rows > top) & (rows < bottom))[:, None] & (columns > left) & (columns < right)
    return _checked(inside, f"--hide={text}", images)


def _checked(hidden: np.ndarray, option: str, images: int) -> np.ndarray:
    if hidden.all() or not hidden.any():
        raise DemoError(
            f"{option} hides {hidden.sum()} of {hidden.size} patches: expected at least one hidden "
            "and one visible"
        )
    return np.tile(hidden.ravel().astype(np.int32), (images, 1))
