"""Fills hidden patches without a model: the baselines of reconstruction."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from hpm_jax.evaluation.rebuilding import fixed_mask
from hpm_jax.step.method import Method, own
from hpm_jax.step.state import TrainState
from hpm_jax.tokens import gather, patchify, unpatchify

Filling = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pixels [H, W, C], known [H, W]
BATCH = 250  # images with one key of the fixed masks, as in a comparison
MOST_IMAGES, MOST_PIXELS = 1000, 2**22  # limits, as interpolation is slow


def measure_fillings(method: Method, state: TrainState, images: np.ndarray) -> dict[str, float]:
    """Returns the fraction of the target's variance that each filling explains, by name.

    Each filling is converted to a target and multiplied by its best factor, so that a target
    without means or contrasts does not put it at a disadvantage.

    There is none, {}, for a target that is read of a network.

    Args:
        images: uint8 `[N, H, W, C]`; the first ones are filled in under fixed random masks.
    """
    if method.target.reads:  # features of a filling are not a baseline
        return {}
    count = max(1, min(len(images), MOST_IMAGES, MOST_PIXELS // (images[0].size)))
    size = min(BATCH, count)
    starts = range(0, count - size + 1, size)
    tops: dict[str, list[float]] = {name: [] for name in FILLINGS}
    bottoms: dict[str, list[float]] = {name: [] for name in FILLINGS}
    square, total = [], []

    # compiled as a whole: operations compiled one by one take longer than the fillings
    @jax.jit
    def masked(state, images, start):
        patches = method.patches(images)
        return patches, fixed_mask(method, state, patches, start)

    @jax.jit
    def target_at(state, patches, hide):
        return gather(method.target_of(patches, own(state, "target")), hide)

    for start in starts:
        patches, mask = masked(state, images[start : start + size], start)
        target = np.asarray(target_at(state, patches, mask.hide))
        total.append(target.mean(axis=(0, 1)))
        square.append(np.square(target).mean())
        for name, filling in FILLINGS.items():
            filled = fill(method, np.asarray(patches), np.asarray(mask.keep), filling)
            guess = np.asarray(target_at(state, filled, mask.hide))
            tops[name].append((guess * target).mean())
            bottoms[name].append(np.square(guess).mean())
    variance = np.mean(square) - np.square(np.mean(total, axis=0)).mean()
    found = {}
    for name in FILLINGS:
        top, bottom = np.mean(tops[name]), np.mean(bottoms[name])
        left = np.mean(square) - (top**2 / bottom if bottom > 1e-12 else 0.0)
        found[f"explained_{name}"] = float(1 - left / variance)
    return found


def fill(method: Method, patches: np.ndarray, keep: np.ndarray, filling: Filling) -> np.ndarray:
    """Returns patches `[B, L, P]` in which all except `keep [B, K]` are filled in."""
    grid, patch_size = method.unit.grid, method.tokenizer.patch_size
    some: Any = patches  # numpy arrays, which these functions keep
    pixels = unpatchify(some, grid, patch_size)[:, 0]
    seen: Any = np.zeros(patches.shape[:2], np.float32)
    np.put_along_axis(seen, keep, 1.0, axis=1)
    seen = seen[..., None].repeat(np.prod(patch_size), axis=-1)
    known = unpatchify(seen, grid, patch_size)[:, 0, ..., 0] > 0
    # SciPy inverts a 2 x 2 matrix for each triangle: threads of BLAS would only wait for each other
    with threadpool_limits(1, "blas"):
        filled: Any = np.stack([filling(*each) for each in zip(pixels, known, strict=True)])
    return np.asarray(patchify(filled.astype(np.float32), patch_size))


def fill_mean(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills with the mean of the visible pixels."""
    return np.where(known[..., None], pixels, pixels[known].mean(axis=0))


def fill_nearest(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills with the nearest visible pixel."""
    from scipy.interpolate import NearestNDInterpolator  # takes half a second to import

    nearest = NearestNDInterpolator(np.argwhere(known), pixels[known])
    return np.where(known[..., None], pixels, nearest(*np.indices(known.shape)))


def fill_interpolated(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills by linear interpolation (Delaunay), and the nearest pixel outside the convex hull."""
    from scipy.interpolate import LinearNDInterpolator

    linear = LinearNDInterpolator(np.argwhere(known), pixels[known])(*np.indices(known.shape))
    outside = np.isnan(linear).any(axis=-1, keepdims=True)
    return np.where(outside, fill_nearest(pixels, known), linear)


FILLINGS = {"mean": fill_mean, "nearest": fill_nearest, "interpolated": fill_interpolated}
