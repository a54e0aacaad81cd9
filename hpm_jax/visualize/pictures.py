"""Pictures of what a model hides, rebuilds and expects, on fixed images."""

import io
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from hpm_jax import random
from hpm_jax.masking.strategies import hardest
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.tokens import unpatchify
from hpm_jax.training.choose import choose_mask
from hpm_jax.training.method import Method
from hpm_jax.training.state import TrainState
from hpm_jax.training.step import student_losses

VISIBLE, RANDOM, HARD = 0, 1, 2  # what became of a patch


class View(NamedTuple):
    """What there is to draw of each image; maps are on the grid `[B, h, w]`."""

    rebuilt: Array  # [B, H, W, C] float32 in [0, 1]: hidden patches rebuilt, visible ones pasted
    fate: Array  # int32: VISIBLE, RANDOM or HARD
    predicted: Array | None  # the loss that the teacher expects, everywhere
    true: Array  # the student's loss at hidden patches, NaN at visible ones


def make_view(model: MaskedAutoencoder, method: Method) -> Callable[..., View]:
    """Builds `(state, images, n_hard) -> View`, to be jitted: one training mask, looked at.

    A target of normalised pixels is put back with the mean and deviation of the true patch, which
    the model never predicts; raw pixels are as the model says.
    """
    t, h, w = model.grid

    def on_grid(values):
        return values.reshape(-1, t, h, w)[:, 0]

    def view(state: TrainState, images: Array, n_hard: Array) -> View:
        patches = method.patches(images)
        key = random.stream(jax.random.key(0), "pictures", 0)
        mask = choose_mask(model, method, state, patches, key, n_hard)
        losses = student_losses(model, method, state.params, patches, mask)
        values = losses.values
        rows = jnp.arange(len(patches))[:, None]
        if method.target.statistics:
            mean, deviation = method.target.statistics(patches, method.std)
            values = values * deviation[rows, mask.hide] + mean[rows, mask.hide]
        rebuilt = unpatchify(patches.at[rows, mask.hide].set(values), model.grid, method.patch_size)
        rebuilt = rebuilt[:, 0] * jnp.asarray(method.std) + jnp.asarray(method.mean)
        predicted = None
        fate = jnp.zeros(patches.shape[:2], jnp.int32).at[rows, mask.hide].set(RANDOM)
        if model.loss_predictor:
            judge = state.params if state.teacher is None else state.teacher
            predicted = model.apply({"params": judge}, patches, method="predict_loss")
            fate = jnp.where(hardest(predicted, n_hard), HARD, fate)
            predicted = on_grid(predicted)
        true = jnp.full(patches.shape[:2], jnp.nan).at[rows, mask.hide].set(losses.reconstruction)
        return View(jnp.clip(rebuilt, 0, 1), on_grid(fate), predicted, on_grid(true))

    return view


def draw(images: np.ndarray, view: View, title: str, note: str) -> bytes:
    """A PNG with a row for each image: input, masked, rebuilt, predicted loss, true loss, mask.

    Args:
        images: uint8 `[B, H, W, C]`; of more than three channels the first three are shown.
        view: of the same images, as numpy arrays.
    """
    fate, maps = np.asarray(view.fate), [("true loss", np.asarray(view.true))]
    if view.predicted is not None:
        maps.insert(0, ("predicted loss", np.asarray(view.predicted)))
    pixels = _shown(images / 255.0)
    masked = np.where(_enlarge(fate, pixels)[..., None] == VISIBLE, pixels, 0.6)
    panels = [("input", pixels), ("masked", masked), ("rebuilt", _shown(view.rebuilt))]
    columns = len(panels) + len(maps) + 1
    aspect = images.shape[1] / images.shape[2]
    figure = Figure(figsize=(1.5 * columns, 1.5 * aspect * len(images) + 0.9), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(images), columns, squeeze=False)
    fates = ListedColormap(["#f2f2f2", "#9a9a9a", "#e4572e"])
    for row in range(len(images)):
        drawn: list[tuple] = [(name, panel[row], {}) for name, panel in panels]
        drawn += [(name, values[row], {"cmap": "magma"}) for name, values in maps]
        drawn += [("mask", fate[row], {"cmap": fates, "vmin": 0, "vmax": 2})]
        for axis, (name, panel, options) in zip(axes[row], drawn, strict=True):
            axis.imshow(panel, interpolation="nearest", **options)
            axis.set_facecolor("#f2f2f2")  # patches without a true loss
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(name, fontsize=10)
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, title, fontsize=10, weight="bold", va="top")
    legend = "mask: white visible, grey hidden at random, orange hidden because hard"
    figure.text(0.01, 0.05 / height, f"{note}\n{legend}", fontsize=7, va="bottom")
    figure.tight_layout(rect=(0, 0.4 / height, 1, 1 - 0.25 / height), pad=0.4)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _shown(pixels: np.ndarray) -> np.ndarray:
    """`[B, H, W, C]` as three channels that can be shown."""
    pixels = np.asarray(pixels)[..., :3]
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _enlarge(grid: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A map on the grid `[B, h, w]`, repeated to the pixels `[B, H, W]`."""
    rows, columns = pixels.shape[1] // grid.shape[1], pixels.shape[2] // grid.shape[2]
    return grid.repeat(rows, axis=1).repeat(columns, axis=2)
