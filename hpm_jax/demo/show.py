"""Runs a model on photographs under one mask: reconstructed pixels, losses, attention."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.demo.model import DemoModel
from hpm_jax.evaluation.fillings import fill, fill_interpolated
from hpm_jax.losses.ranking import pairs_ranked_correctly
from hpm_jax.losses.reconstruction import compared
from hpm_jax.step.state import Params
from hpm_jax.tokens import Mask, gather
from hpm_jax.visualize.view import View, at_hidden, rebuilt_pixels

QUICK = {"xla_backend_optimization_level": 0}  # a tiny model: compiling takes longer than running


class Shown(NamedTuple):
    """Pictures and numbers of photographs under one mask."""

    view: View
    explained: np.ndarray  # [B] fraction of hidden patches' variance explained by the model
    interpolated: np.ndarray  # [B] and by linear interpolation between visible pixels
    ranked: float  # ranking accuracy over pairs of hidden patches


class WholeImages(NamedTuple):
    """The outputs of the model for whole photographs."""

    predicted: np.ndarray  # [B, L], the predicted losses
    attention: np.ndarray  # [B, L] of the cls token in the last block, the mean of its heads


def read_whole(demo: DemoModel, images: np.ndarray) -> WholeImages:
    """Runs one pass over images uint8 `[B, H, W, C]` with nothing hidden."""

    def read(params: Params, images: Array, reads: tuple[str, ...]) -> Any:
        patches = demo.method.patches(images)
        return demo.model.apply({"params": params}, patches, reads, method="read")

    run = jax.jit(read, static_argnums=2, compiler_options=QUICK)
    predicted = run(demo.teacher, images, ("predicted_loss",))["predicted_loss"]
    attention = run(demo.student, images, ("attention",))["attention"]
    return WholeImages(np.asarray(predicted), np.asarray(attention))


def show(demo: DemoModel, images: np.ndarray, predicted: np.ndarray, status: np.ndarray) -> Shown:
    """Hides patches and reconstructs them.

    Args:
        images: uint8 `[B, H, W, C]`.
        predicted: `[B, L]`, the predicted losses.
        status: `[B, L]`, from `hpm_jax.demo.masks`; the same number is hidden in every image.
    """
    method, grid = demo.method, demo.model.grid

    def rebuild(params: Params, images: Array, mask: Mask) -> tuple[Array, ...]:
        patches = method.patches(images)
        prediction: Any = demo.model.apply({"params": params}, patches, mask)
        target = gather(method.target_of(patches), mask.hide)
        losses = compared(method.objective, prediction.values, target)
        context = method.target_context(patches)
        pixels = rebuilt_pixels(method, demo.model, context, prediction.values, mask.hide)
        true = at_hidden(losses, mask.hide, patches.shape[1])
        return patches, target, prediction.values, pixels, true

    count = int((status[0] > 0).sum())
    order = np.argsort(status > 0, axis=1, kind="stable").astype(np.int32)
    keep, hide = np.split(order, [order.shape[1] - count], axis=1)
    mask: Any = Mask(keep, hide)  # type: ignore[arg-type]
    run = jax.jit(rebuild, compiler_options=QUICK)
    patches, target, values, pixels, true = map(np.asarray, run(demo.student, images, mask))
    guess = fill(method, patches, keep, fill_interpolated)
    filled = gather(method.target_of(jnp.asarray(guess)), mask.hide)
    predicted_of_hidden = np.take_along_axis(predicted, hide, axis=1)
    losses = np.take_along_axis(true, hide, axis=1)
    maps: list[Any] = [x.reshape(-1, *grid[1:]) for x in (status, predicted, true)]
    rebuilt: Any = np.clip(pixels, 0, 1).reshape(images.shape)
    return Shown(
        view=View(rebuilt, *maps),
        explained=explained(values, target),
        interpolated=explained(np.asarray(filled), target),
        ranked=pairs_in_order(predicted_of_hidden, losses),
    )


def explained(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the fraction of the variance of `[B, M, D]` that values explain, `[B]`."""
    error = np.square(values - target).mean(axis=(1, 2))
    variance = np.square(target - target.mean(axis=1, keepdims=True)).mean(axis=(1, 2))
    return 1 - error / np.maximum(variance, 1e-12)


def pairs_in_order(predicted: np.ndarray, losses: np.ndarray) -> float:
    """Returns the ranking accuracy over pairs of hidden patches `[B, M]`."""
    if predicted.shape[1] < 2:
        return float("nan")
    return float(pairs_ranked_correctly(jnp.asarray(predicted), jnp.asarray(losses)))
