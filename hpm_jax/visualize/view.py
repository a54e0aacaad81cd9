"""Computes everything that is drawn of a model: masks, reconstructions and losses."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax import random
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.mask import make_mask, mask_context, run_network, run_networks
from hpm_jax.step.method import Method, own
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import Masked, draw_all, student_pass
from hpm_jax.targets import TargetContext

VISIBLE, HIDDEN, HARD = 0, 1, 2  # status of a patch
FATE_COLORS = ("#f2f2f2", "#9a9a9a", "#e4572e")
LEGEND = "mask: white visible, grey hidden, orange hidden because hard"


class View(NamedTuple):
    """The arrays to draw; maps are on the patch grid: `[B, h, w]`, for clips `[B, t, h, w]`."""

    rebuilt: Array  # float32 in [0, 1], shape of the images: hidden patches are reconstructed
    status: Array  # int32: VISIBLE, HIDDEN or HARD
    predicted: Array | None  # the loss predicted by the teacher, at every patch
    true: Array  # the student's loss at hidden patches, NaN at visible ones


def make_view(model: MaskedAutoencoder, method: Method) -> Callable[..., View]:
    """Builds `(state, images, schedule) -> View`, to be jitted: one training mask.

    The strategy determines the mask and which patches are hidden as hard ones. Hidden patches are
    drawn by `Target.picture`, grey if the target cannot be drawn.
    """
    alone = method.in_full

    def view(state: TrainState, images: Array, schedule: Schedule) -> View:
        grid = model.grid[5 - images.ndim :]  # without t for images
        patches = method.patches(images)
        predicted, n_hard = None, jnp.asarray(schedule.n_hard)
        if model.loss_predictor:
            teacher_params = state.params if state.teacher is None else state.teacher
            predicted = run_network(model, alone, teacher_params, patches)["predicted_loss"]
        readings, of_target = run_networks(model, alone, state, patches)
        key = random.stream(jax.random.key(0), "pictures", 0)
        mask = make_mask(alone, state, patches, key, schedule, readings)
        masked = Masked(patches, mask, draw_all(alone, mask, key, 0), of_target)
        outputs = student_pass(model, alone, state, state.params, masked)

        context = method.target_context(patches, own(state, "target"))
        drawn = rebuilt_pixels(method, model, context, outputs.values, mask.hide)
        rows = jnp.arange(len(patches))[:, None]
        status = jnp.zeros(patches.shape[:2], jnp.int32).at[rows, mask.hide].set(HIDDEN)
        if mask.counted is not None:
            status = status.at[rows, mask.hide].set(jnp.where(mask.counted, HIDDEN, VISIBLE))
        hard = method.strategy.hard(mask_context(alone, state, patches, n_hard, readings))
        if hard is not None:
            hard = jnp.tile(hard, method.unit.size)
            status = jnp.where(hard & (status == HIDDEN) & (n_hard > 0), HARD, status)
        true = at_hidden(outputs.losses, mask.hide, patches.shape[1])
        return View(
            rebuilt=jnp.clip(drawn, 0, 1).reshape(images.shape),
            status=status.reshape(-1, *grid),
            predicted=None if predicted is None else predicted.reshape(-1, *grid),
            true=true.reshape(-1, *grid),
        )

    return view


def rebuilt_pixels(
    method: Method, model: MaskedAutoencoder, context: TargetContext, values: Array, hide: Array
) -> Array:
    """Pastes predictions `[B, M, D]` for hidden patches into the images; grey if no picture."""
    patches = context.patches
    drawn = method.target.picture(values, context, hide)
    if drawn is None:
        drawn = jnp.zeros((*hide.shape, patches.shape[-1]), patches.dtype)
    rows = jnp.arange(len(patches))[:, None]
    return method.tokenizer.pixels(patches.at[rows, hide].set(drawn), model.grid)


def at_hidden(values: Array, hide: Array, length: int) -> Array:
    """Spreads values of hidden patches `[B, M]` over all patches `[B, L]`; NaN if visible."""
    rows = jnp.arange(len(hide))[:, None]
    return jnp.full((len(hide), length), jnp.nan).at[rows, hide].set(values)


def patch_status(hide: np.ndarray, hard: Array | np.ndarray | None, length: int) -> np.ndarray:
    """Returns VISIBLE, HIDDEN or HARD for each of `length` patches, int `[B, L]`.

    Args:
        hide: `[B, M]` indices of hidden patches.
        hard: `[B, L]`, True for those hidden because they are hard; None if there are none.
    """
    status = np.full((len(hide), length), VISIBLE)
    np.put_along_axis(status, np.asarray(hide), HIDDEN, axis=1)
    if hard is not None:
        status[np.asarray(hard) & (status == HIDDEN)] = HARD
    return status


def pixels_of(images: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """Returns input, masked and rebuilt in [0, 1], with the first three channels.

    Args:
        images: `[B, H, W, C]`, or clips `[B, T, H, W, C]`; uint8, or float32 in [0, 1], beyond
            which it is clipped.
        view: of the same images, as numpy arrays.
    """
    unit = images / 255.0 if images.dtype == np.uint8 else np.clip(images, 0.0, 1.0)
    pixels = _three_channels(unit)
    masked = np.where(enlarge(view.status, pixels)[..., None] == VISIBLE, pixels, 0.6)
    return {"input": pixels, "masked": masked, "rebuilt": _three_channels(view.rebuilt)}


def losses_of(view: View) -> dict[str, np.ndarray]:
    """Returns the loss maps on the grid: predicted, if there is a loss predictor, and true."""
    predicted = {} if view.predicted is None else {"predicted loss": np.asarray(view.predicted)}
    return predicted | {"true loss": np.asarray(view.true)}


def enlarge(grid: Array | np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Enlarges a map on the grid: repeats each value for the pixels (and frames) of its patch."""
    grid = np.asarray(grid)
    for axis in range(1, grid.ndim):
        grid = grid.repeat(pixels.shape[axis] // grid.shape[axis], axis)
    return grid


def _three_channels(pixels: Array | np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)[..., :3]
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
