"""What a model hides, rebuilds and expects of fixed images or clips: all that is drawn of it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax import random
from hpm_jax.masking.units import Unit
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.choose import ask_all, context_of, look, mask_units
from hpm_jax.step.method import Method, own
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import Masked, draw_all, student_pass

VISIBLE, HIDDEN, HARD = 0, 1, 2  # what became of a patch
FATE_COLORS = ("#f2f2f2", "#9a9a9a", "#e4572e")
LEGEND = "mask: white visible, grey hidden, orange hidden because hard"


class View(NamedTuple):
    """What there is to draw; maps lie on the grid: `[B, h, w]`, of clips `[B, t, h, w]`."""

    rebuilt: Array  # as the images, float32 in [0, 1]: hidden patches rebuilt, visible ones pasted
    fate: Array  # int32: VISIBLE, HIDDEN or HARD
    predicted: Array | None  # the loss that the teacher expects, everywhere
    true: Array  # the student's loss at hidden patches, NaN at visible ones


def make_view(model: MaskedAutoencoder, method: Method) -> Callable[..., View]:
    """Builds `(state, images, schedule) -> View`, to be jitted: one training mask, looked at.

    The mask is the strategy's, and so is which patches are hidden because they are hard. Hidden
    patches are drawn as the target says (`Target.picture`), grey where it is no picture.
    """
    of_patches = dataclasses.replace(method, unit=Unit(model.grid), views=1)
    alone = dataclasses.replace(method, views=1)

    def view(state: TrainState, images: Array, schedule: Schedule) -> View:
        grid = model.grid[5 - images.ndim :]  # that of an image has no t
        patches = method.patches(images)
        predicted, n_hard = None, jnp.asarray(schedule.n_hard)
        if model.loss_predictor:
            judge = state.params if state.teacher is None else state.teacher
            predicted = look(model, of_patches, judge, patches)["predicted_loss"]
        seen = ask_all(model, alone, state, patches) if method.strategy.reads else {}
        key = random.stream(jax.random.key(0), "pictures", 0)
        mask = mask_units(alone, state, patches, key, schedule, seen)
        masked = Masked(patches, mask, draw_all(alone, mask, key, 0))
        outputs = student_pass(model, alone, state, state.params, masked)

        rows = jnp.arange(len(patches))[:, None]
        context = method.target_context(patches, own(state, "target"))
        values = method.target.picture(outputs.values, context, mask.hide)
        if values is None:
            values = jnp.zeros((*mask.hide.shape, patches.shape[-1]), patches.dtype)
        drawn = method.tokenizer.pixels(patches.at[rows, mask.hide].set(values), model.grid)

        fate = jnp.zeros(patches.shape[:2], jnp.int32).at[rows, mask.hide].set(HIDDEN)
        if mask.counted is not None:
            fate = fate.at[rows, mask.hide].set(jnp.where(mask.counted, HIDDEN, VISIBLE))
        hard = method.strategy.hard(context_of(alone, state, patches, n_hard, seen))
        if hard is not None:
            hard = jnp.tile(hard, method.unit.size)
            fate = jnp.where(hard & (fate == HIDDEN) & (n_hard > 0), HARD, fate)
        true = jnp.full(patches.shape[:2], jnp.nan).at[rows, mask.hide].set(outputs.losses)
        return View(
            rebuilt=jnp.clip(drawn, 0, 1).reshape(images.shape),
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


def enlarge(grid: Array | np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A map on the grid, each value repeated to the pixels (and frames) of its patch."""
    grid = np.asarray(grid)
    for axis in range(1, grid.ndim):
        grid = grid.repeat(pixels.shape[axis] // grid.shape[axis], axis)
    return grid


def _three_channels(pixels: Array | np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)[..., :3]
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
