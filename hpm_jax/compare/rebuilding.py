"""How well hidden patches are rebuilt and ranked, under masks that are the same in every cell."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from hpm_jax.compare.data import Images
from hpm_jax.evaluation.evaluator import fixed_mask
from hpm_jax.losses.ranking import pairs_ranked_correctly
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.method import Method
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import Masked, student_pass
from hpm_jax.tokens import gather, patchify, unpatchify

Filling = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pixels [H, W, C], known [H, W]
BATCH = 250  # images rebuilt at once
INTERPOLATED = 1000  # images that the baselines fill in


def make_rebuild(
    model: MaskedAutoencoder, method: Method
) -> Callable[[TrainState, np.ndarray, int], dict[str, Array]]:
    """Builds the compiled `(state, uint8 images, first) -> sums`, of one batch."""
    blind = method.at_random

    def rebuild(state: TrainState, images: Array, first: Array) -> dict[str, Array]:
        patches = blind.patches(images)
        mask = fixed_mask(method, state, patches, first)
        outputs = student_pass(model, blind, state, state.params, Masked(patches, mask))
        target, losses = outputs.target, outputs.losses
        found = {
            "held_out": losses.mean(),
            "error": jnp.square(outputs.values - target).mean(),
            "sum": target.mean(axis=(0, 1)),
            "square": jnp.square(target).mean(),
            "contrast": pairs_ranked_correctly(gather(patches, mask.hide).std(axis=-1), losses),
        }
        if outputs.predicted is not None:
            found["ranking"] = pairs_ranked_correctly(outputs.predicted, losses)
        return found

    return jax.jit(rebuild)


def measure_rebuilding(
    rebuild: Callable[[TrainState, np.ndarray, int], dict[str, Array]],
    state: TrainState,
    images: np.ndarray,
) -> dict[str, float]:
    """Over whole batches of test images, uint8 `[N, H, W, C]`, with fixed random masks.

    `held_out` is the mean loss of the objective; `explained` the share of the target's variance
    that the prediction explains; `ranking` the share of pairs of hidden patches whose order by
    loss the predictor says, and `contrast` the same of the patch's own deviation as a predictor.
    """
    size = min(BATCH, len(images))
    starts = range(0, len(images) - size + 1, size)
    found = [rebuild(state, images[start : start + size], start) for start in starts]
    mean = {name: np.mean([np.asarray(x[name]) for x in found], axis=0) for name in found[0]}
    variance = mean["square"] - np.square(mean["sum"]).mean()
    numbers = {"held_out": mean["held_out"], "explained": 1 - mean["error"] / variance}
    numbers |= {name: mean[name] for name in ("contrast", "ranking") if name in mean}
    return {name: float(value) for name, value in numbers.items()}


def measure_fillings(method: Method, state: TrainState, test: Images) -> dict[str, float]:
    """The variance of the target that three fillings of the hidden pixels explain, by name.

    Each filling is compared as a target of its own, times the one factor that suits it best, so
    that a target without means or contrasts costs it nothing.
    """
    size = min(BATCH, len(test.pixels))
    starts = range(0, min(INTERPOLATED, len(test.pixels) - size + 1), size)
    tops: dict[str, list[float]] = {name: [] for name in FILLINGS}
    bottoms: dict[str, list[float]] = {name: [] for name in FILLINGS}
    square, total = [], []
    for start in starts:
        patches = method.patches(jnp.asarray(test.pixels[start : start + size]))
        mask = fixed_mask(method, state, patches, start)
        target = np.asarray(gather(method.target_of(patches), mask.hide))
        total.append(target.mean(axis=(0, 1)))
        square.append(np.square(target).mean())
        for name, filling in FILLINGS.items():
            filled = jnp.asarray(fill(method, np.asarray(patches), np.asarray(mask.keep), filling))
            guess = np.asarray(gather(method.target_of(filled), mask.hide))
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
    """Patches `[B, L, P]` of images of which only `keep [B, K]` are known, the others filled in."""
    grid, patch_size = method.unit.grid, method.tokenizer.patch_size
    pixels = np.asarray(unpatchify(jnp.asarray(patches), grid, patch_size))[:, 0]
    seen = np.zeros(patches.shape[:2], np.float32)
    np.put_along_axis(seen, keep, 1.0, axis=1)
    seen = seen[..., None].repeat(np.prod(patch_size), axis=-1)
    known = np.asarray(unpatchify(jnp.asarray(seen), grid, patch_size))[:, 0, ..., 0] > 0
    filled = np.stack([filling(*each) for each in zip(pixels, known, strict=True)])
    return np.asarray(patchify(jnp.asarray(filled, jnp.float32), patch_size))


def fill_mean(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean of the visible pixels."""
    return np.where(known[..., None], pixels, pixels[known].mean(axis=0))


def fill_nearest(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The nearest visible pixel."""
    nearest = NearestNDInterpolator(np.argwhere(known), pixels[known])
    return np.where(known[..., None], pixels, nearest(*np.indices(known.shape)))


def fill_interpolated(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Linear between visible pixels (Delaunay), the nearest one outside of their hull."""
    linear = LinearNDInterpolator(np.argwhere(known), pixels[known])(*np.indices(known.shape))
    outside = np.isnan(linear).any(axis=-1, keepdims=True)
    return np.where(outside, fill_nearest(pixels, known), linear)


FILLINGS = {"mean": fill_mean, "nearest": fill_nearest, "interpolated": fill_interpolated}
