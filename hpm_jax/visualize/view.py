"""What a model hides, rebuilds and expects of fixed images or clips: all that is drawn of it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax import random
from hpm_jax.masking.strategies import hardest
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.choose import look, mask_units
from hpm_jax.step.method import Method
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import student_losses
from hpm_jax.tokens import gather, unpatchify

VISIBLE, RANDOM, HARD = 0, 1, 2  # what became of a patch
FATE_COLORS = ("#f2f2f2", "#9a9a9a", "#e4572e")
LEGEND = "mask: white visible, grey hidden at random, orange hidden because hard"


class View(NamedTuple):
    """What there is to draw; maps lie on the grid: `[B, h, w]`, of clips `[B, t, h, w]`."""

    rebuilt: Array  # as the images, float32 in [0, 1]: hidden patches rebuilt, visible ones pasted
    fate: Array  # int32: VISIBLE, RANDOM or HARD
    predicted: Array | None  # the loss that the teacher expects, everywhere
    true: Array  # the student's loss at hidden patches, NaN at visible ones


def make_view(model: MaskedAutoencoder, method: Method) -> Callable[..., View]:
    """Builds `(state, images, n_hard) -> View`, to be jitted: one training mask, looked at.

    The teacher looks once; its word is drawn patch by patch, and the mask follows from it.

    A target of normalised pixels is put back with the mean and deviation of the true patch, which
    the model never predicts; raw pixels are as the model says. Where one frame of each patch is
    rebuilt, it stands in all frames of the patch.
    """
    unit = method.unit(model)
    of_patches = dataclasses.replace(method, tubes=False)

    def view(state: TrainState, images: Array, n_hard: Array) -> View:
        grid = model.grid[5 - images.ndim :]  # that of an image has no t
        patches = method.patches(images)
        predicted = units = None
        if model.loss_predictor:
            judge = state.params if state.teacher is None else state.teacher
            predicted = look(model, of_patches, judge, patches)
            units = unit.pool(predicted)
        key = random.stream(jax.random.key(0), "pictures", 0)
        mask = mask_units(model, method, patches, key, n_hard, units)
        losses = student_losses(model, method, state.params, patches, mask)

        values = losses.values
        if method.target.statistics:
            mean, deviation = method.target.statistics(method.part(patches), method.std)
            values = values * gather(deviation, mask.hide) + gather(mean, mask.hide)
        values = jnp.tile(values, patches.shape[-1] // values.shape[-1])
        rows = jnp.arange(len(patches))[:, None]
        rebuilt = unpatchify(patches.at[rows, mask.hide].set(values), model.grid, method.patch_size)
        rebuilt = rebuilt * jnp.asarray(method.std) + jnp.asarray(method.mean)

        fate = jnp.zeros(patches.shape[:2], jnp.int32).at[rows, mask.hide].set(RANDOM)
        if units is not None:
            fate = jnp.where(jnp.tile(hardest(units, n_hard), unit.size), HARD, fate)
        true = jnp.full(patches.shape[:2], jnp.nan).at[rows, mask.hide].set(losses.reconstruction)
        return View(
            rebuilt=jnp.clip(rebuilt, 0, 1).reshape(images.shape),
            fate=fate.reshape(-1, *grid),
            predicted=None if predicted is None else predicted.reshape(-1, *grid),
            true=true.reshape(-1, *grid),
        )

    return view


def pixels_of(images: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """Input, masked and rebuilt, as three channels in [0, 1]; of more channels the first three.

    Args:
        images: uint8 `[B, H, W, C]`, or clips `[B, T, H, W, C]`.
        view: of the same images, as numpy arrays.
    """
    pixels = _three_channels(images / 255.0)
    masked = np.where(enlarge(view.fate, pixels)[..., None] == VISIBLE, pixels, 0.6)
    return {"input": pixels, "masked": masked, "rebuilt": _three_channels(view.rebuilt)}


def losses_of(view: View) -> dict[str, np.ndarray]:
    """The maps of losses, on the grid: predicted, where there is a loss predictor, and true."""
    predicted = {} if view.predicted is None else {"predicted loss": np.asarray(view.predicted)}
    return predicted | {"true loss": np.asarray(view.true)}


def enlarge(grid: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A map on the grid, each value repeated to the pixels (and frames) of its patch."""
    grid = np.asarray(grid)
    for axis in range(1, grid.ndim):
        grid = grid.repeat(pixels.shape[axis] // grid.shape[axis], axis)
    return grid


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)[..., :3]
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
