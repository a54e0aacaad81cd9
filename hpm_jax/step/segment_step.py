"""The segmentation step: cross-entropy at every pixel that has a class."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Float32, Int, Int16, UInt8

from hpm_jax import random
from hpm_jax.models import Segmenter
from hpm_jax.models.layers import drop_paths
from hpm_jax.models.segmenter import enlarge_logits
from hpm_jax.step.optimizer import Descend, descend, encoder_rates
from hpm_jax.step.schedules import SegmentSchedule
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import Metrics, make_update
from hpm_jax.tokens import AnyArray, Tokenizer


@dataclasses.dataclass(frozen=True)
class SegmentRecipe:
    """How a segmenter is trained."""

    tokenizer: Tokenizer
    drop_path: float = 0.0
    accumulation: int = 1
    mask_sup: float = 0.0  # probability that a patch is hidden from the second pass; 0 makes none
    similarity: float = 1.0  # weight of the difference of both passes

    @property
    def passes(self) -> int:
        """Number of passes of the network in a step."""
        return 2 if self.mask_sup else 1


class SegmentBatch(NamedTuple):
    """What the segmenter sees of a batch, after everything random has been drawn."""

    patches: Float32[Array, "B L P"]
    labels: Int16[AnyArray, "B H W"]  # class indices; negative where a pixel is left out
    share: Float32[Array, " B"]  # weight of one pixel in the loss, the same everywhere
    drop: Float[Array, "B depth 2"] | None
    drawn: Any = None  # random arrays of the decoder
    shown: Float32[Array, "B L 1"] | None = None  # 0 for patches hidden from MaskSup's second pass
    again: Any = None  # (drop, drawn) of the second pass


def prepare(
    model: Segmenter,
    recipe: SegmentRecipe,
    images: UInt8[AnyArray, "B H W C"] | Float32[AnyArray, "B H W C"],
    labels: Int16[AnyArray, "B H W"],
    key: Array,
    step: Array | int,
) -> SegmentBatch:
    """Images and class indices to a `SegmentBatch`, drawn by `(key, step)`.

    The weight of a pixel is one over the number of labelled pixels of the whole batch, over all
    devices, times the number of accumulation parts, whose losses are averaged: so the loss is the
    mean over the labelled pixels for any number of parts and devices.
    """
    count = jnp.sum(labels >= 0).astype(jnp.float32)
    share = recipe.accumulation / jnp.maximum(count, 1.0)

    def draw(suffix: str) -> tuple[Array | None, Any]:
        drop_key = random.stream(key, f"drop_path{suffix}", step)
        drop = drop_paths(drop_key, len(images), model.depth, recipe.drop_path)
        decoder_key = random.stream(key, f"decoder{suffix}", step)
        return drop, model.decoder.draw_for(decoder_key, len(images))

    patches = recipe.tokenizer(images)
    weights = jnp.full(len(images), share, jnp.float32)
    batch = SegmentBatch(patches, labels, weights, *draw(""))
    if not recipe.mask_sup:
        return batch
    mask_key, shape = random.stream(key, "mask_sup", step), (*patches.shape[:2], 1)
    shown = jax.random.bernoulli(mask_key, 1 - recipe.mask_sup, shape).astype(jnp.float32)
    return batch._replace(shown=shown, again=draw("_again"))


def pixel_losses(
    logits: Float[Array, "B H W classes"], labels: Int[AnyArray, "B H W"]
) -> Float[Array, "B H W"]:
    """Cross-entropy of each pixel; 0 where the label is negative."""
    known = jnp.maximum(labels, 0).astype(jnp.int32)
    own = jnp.take_along_axis(logits, known[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - own
    return jnp.where(labels >= 0, losses, 0.0)


def variables_of(state: TrainState, params: Params | None = None) -> dict[str, Any]:
    """Returns what `Segmenter.apply` takes: parameters, and the running averages of norms.

    Args:
        params: other parameters than those of the state.
    """
    variables = {"params": state.params if params is None else params}
    return variables | ({"batch_stats": state.plugs} if state.plugs else {})


Loss = Callable[[Params, SegmentBatch, SegmentSchedule], tuple[Array, tuple[Metrics, Any]]]


def segmentation_loss(model: Segmenter, recipe: SegmentRecipe, state: TrainState) -> Loss:
    """Builds `(params, batch, schedule) -> (loss, (metrics, running averages))`.

    MaskSup (Zunair and Ben Hamza 2022, 2210.00923) adds the cross-entropy of a second pass, in
    which some patches have the mean colour, and the mean squared difference of the softmax of both
    passes. The official code takes that of the chosen classes, which has no gradient.

    Args:
        state: whose running averages are moved towards the statistics of the batch; {} for none.
    """

    @jax.checkpoint  # the backward pass enlarges the logits again: they are 256 times as many
    def enlarged_loss(logits, labels, share):
        enlarged = enlarge_logits(logits, labels.shape[1:])
        return jnp.sum(pixel_losses(enlarged, labels) * share[:, None, None])

    def decode(params, patches, drop, drawn) -> Any:
        variables = variables_of(state, params)
        return model.apply(
            variables, patches, drop, drawn, method="decoded", mutable=["batch_stats"]
        )

    def loss_of(params, batch, schedule):
        decoded, moved = decode(params, batch.patches, batch.drop, batch.drawn)
        loss = enlarged_loss(decoded.logits, batch.labels, batch.share)
        metrics = {"cross_entropy": loss}
        for name, (weight, logits) in decoded.auxiliary.items():
            metrics[name] = enlarged_loss(logits, batch.labels, batch.share)
            loss = loss + weight * metrics[name]
        if batch.shown is not None:
            again, _ = decode(params, batch.patches * batch.shown, *batch.again)
            pair = (jax.nn.softmax(x.logits) for x in (decoded, again))
            metrics["mask_sup"] = enlarged_loss(again.logits, batch.labels, batch.share)
            metrics["similarity"] = jnp.mean(jnp.square(jnp.subtract(*pair)))
            loss = loss + metrics["mask_sup"] + recipe.similarity * metrics["similarity"]
        labelled = jnp.mean((batch.labels >= 0).astype(jnp.float32))
        return loss, ({"loss": loss, **metrics, "labelled": labelled}, moved.get("batch_stats"))

    return loss_of


def learning_rates(params: Params, model: Segmenter, layer_decay: float) -> Descend:
    """Returns the rule of the learning rates: layer by layer, and 0 for a frozen encoder."""
    return descend if model.raw_pixels else encoder_rates(params, layer_decay, model.frozen)


def make_segment_step(
    model: Segmenter,
    recipe: SegmentRecipe,
    optimizer: optax.GradientTransformation,
    descend: Descend = descend,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds the step: `(state, images, labels, key, schedule) -> (state, metrics)`.

    It is pure, and everything random is drawn for the whole batch by `(key, step)`.

    Args:
        descend: the learning rates of the layers; see `learning_rates`.
    """

    def segment_step(state, images, labels, key, schedule):
        batch = prepare(model, recipe, images, labels, key, state.step)
        loss = segmentation_loss(model, recipe, state)
        update = make_update(loss, optimizer, recipe.accumulation, descend)
        state, (metrics, averages) = update(state, batch, schedule)
        return state.replace(plugs=averages), metrics

    return segment_step
