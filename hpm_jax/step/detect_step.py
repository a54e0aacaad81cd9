"""The detection step: the losses of Mask R-CNN, with everything sampled by (key, step)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Float32, Int, Int32, UInt8

from hpm_jax import random
from hpm_jax.detection.boxes import area, encode, overlap
from hpm_jax.detection.losses import box_loss, class_loss, mask_loss, objectness_loss
from hpm_jax.detection.masks import mask_targets
from hpm_jax.detection.matching import IGNORED, POSITIVE, match, most_positive, sample
from hpm_jax.detection.proposals import BOX_WEIGHTS, Proposals, propose
from hpm_jax.detection.roi_align import levels_of, roi_align
from hpm_jax.models import Detector
from hpm_jax.models.detector import BOX_BINS, MASK_BINS, MASK_SIZE, Regions
from hpm_jax.models.layers import drop_paths
from hpm_jax.step.optimizer import Descend, descend
from hpm_jax.step.schedules import DetectSchedule
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.update import Metrics, make_update
from hpm_jax.tokens import AnyArray, Tokenizer

# overlaps and shares of positive samples (Ren et al. 2015, section 3.1; Girshick 2015, section 2.3)
ANCHOR_NEGATIVE, ANCHOR_POSITIVE, ANCHOR_SHARE = 0.3, 0.7, 0.5
PROPOSAL_POSITIVE, PROPOSAL_SHARE = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class DetectRecipe:
    """How a detector is trained; the numbers are those of one image."""

    tokenizer: Tokenizer
    level_proposals: int = 2000
    proposals: int = 1000
    sampled_anchors: int = 256
    sampled_proposals: int = 512
    drop_path: float = 0.0
    accumulation: int = 1


class DetectBatch(NamedTuple):
    """What the detector sees of a batch, after everything random has been drawn or keyed."""

    patches: Float32[Array, "B L P"]
    sizes: Float32[AnyArray, "B 2"]
    boxes: Float32[AnyArray, "B G 4"]
    classes: Int32[AnyArray, "B G"]
    masks: UInt8[AnyArray, "B G R R"]
    keys: Array  # [B], of what is sampled
    drop: Float[Array, "B depth 2"] | None


class Sampled(NamedTuple):
    """The K sampled proposals of an image."""

    boxes: Float[Array, "K 4"]
    objects: Int[Array, " K"]  # the object that each of them learns
    labels: Int[Array, " K"]  # POSITIVE, NEGATIVE, or IGNORED where there is none


def prepare(
    model: Detector,
    recipe: DetectRecipe,
    images: AnyArray,
    sizes: AnyArray,
    boxes: AnyArray,
    classes: AnyArray,
    masks: AnyArray,
    key: Array,
    step: Array | int,
) -> DetectBatch:
    """Images and their objects, as of `random_view`, to a `DetectBatch`."""
    drop_key = random.stream(key, "drop_path", step)
    drop = drop_paths(drop_key, len(images), model.depth, recipe.drop_path)
    keys = jax.random.split(random.stream(key, "detection", step), len(images))
    return DetectBatch(recipe.tokenizer(images), sizes, boxes, classes, masks, keys, drop)


def region_losses(
    regions: tuple[Array, Array], anchors: Array, boxes: Array, key: Array, count: int
) -> tuple[Array, Array]:
    """Returns the losses of objectness and of deltas of the anchors of one image.

    Args:
        regions: logits `[A]` and deltas `[A, 4]`.
        boxes: the objects `[G, 4]`; four zeros where there is none.
        count: number of sampled anchors.
    """
    logits, deltas = regions
    overlaps = overlap(boxes, anchors)
    matches = match(overlaps, area(boxes) > 0, ANCHOR_NEGATIVE, ANCHOR_POSITIVE, low_quality=True)
    chosen = sample(key, matches.labels, count, ANCHOR_SHARE)
    positive = chosen.labels == POSITIVE
    targets = encode(boxes[matches.objects[chosen.indices]], anchors[chosen.indices])
    return (
        objectness_loss(logits[chosen.indices], positive, chosen.labels != IGNORED),
        box_loss(deltas[chosen.indices], targets, positive),
    )


def sample_proposals(proposals: Proposals, boxes: Array, key: Array, count: int) -> Sampled:
    """Samples proposals of one image, among which are its objects `[G, 4]` themselves."""
    there = area(boxes) > 0
    every = jnp.concatenate([proposals.boxes, boxes])
    matches = match(overlap(boxes, every), there, PROPOSAL_POSITIVE, PROPOSAL_POSITIVE)
    labels = jnp.where(jnp.concatenate([proposals.valid, there]), matches.labels, IGNORED)
    chosen = sample(key, labels, count, PROPOSAL_SHARE)
    return Sampled(every[chosen.indices], matches.objects[chosen.indices], chosen.labels)


def pool(
    model: Detector, levels: Sequence[Array], boxes: Float[Array, "B R 4"], bins: int
) -> Float[Array, "_ bins bins C"]:
    """Reads boxes from the levels of their size, all but the coarsest: `[B * R, bins, bins, C]`."""
    strides = model.strides[:-1]

    def one(levels: Sequence[Array], boxes: Array) -> Array:
        scales = [1 / stride for stride in strides]
        return roi_align(levels, boxes, levels_of(boxes, strides), scales, bins)

    pooled = jax.vmap(one)(tuple(levels[:-1]), boxes)
    return pooled.reshape(-1, bins, bins, pooled.shape[-1])


def find_proposals(
    model: Detector, regions: Regions, sizes: AnyArray, per_level: int, count: int
) -> Proposals:
    """Returns the proposals of a batch; no gradient flows through them."""
    anchors = model.anchors

    def one(logits, deltas, size):
        return propose(logits, deltas, anchors, size, per_level, count)

    logits, deltas = jax.lax.stop_gradient((regions.logits, regions.deltas))
    return jax.vmap(one)(logits, deltas, sizes)


def detection_loss(
    model: Detector, recipe: DetectRecipe
) -> Callable[[Params, DetectBatch, DetectSchedule], tuple[Array, tuple[Metrics, None]]]:
    """Builds `(params, batch, schedule) -> (loss, (metrics, None))`.

    Each image has the same weight: its losses are means over its own samples, as in detectron2 with
    one image on each device, so they depend neither on devices nor on accumulation.
    """
    anchors = jnp.concatenate(list(map(jnp.asarray, model.anchors)))
    count = recipe.sampled_proposals

    def of_boxes(logits, deltas, sampled, boxes, classes):
        positive = sampled.labels == POSITIVE
        own = classes[sampled.objects]
        targets = jnp.where(positive, own, model.classes)
        targets = jnp.where(sampled.labels == IGNORED, -1, targets)
        moved = jnp.take_along_axis(deltas, own[:, None, None], axis=1)[:, 0]
        wanted = encode(boxes[sampled.objects], sampled.boxes, BOX_WEIGHTS)
        return class_loss(logits, targets), box_loss(moved, wanted, positive)

    def of_masks(logits, sampled, boxes, classes, masks):
        own = classes[sampled.objects][:, None, None, None]
        chosen = jnp.take_along_axis(logits, own, axis=-1)[..., 0]
        wanted = mask_targets(
            masks[sampled.objects], boxes[sampled.objects], sampled.boxes, MASK_SIZE
        )
        return mask_loss(chosen, wanted, sampled.labels == POSITIVE)

    def loss_of(params, batch, schedule):
        def apply(method: str, *inputs: Any) -> Any:
            return model.apply({"params": params}, *inputs, method=method)

        levels = apply("levels", batch.patches, batch.drop)
        regions = apply("find_regions", levels)
        keys = jax.vmap(jax.random.split)(batch.keys)
        logits, deltas = (jnp.concatenate(list(part), axis=1) for part in regions)
        losses = dict(
            zip(
                ("objectness", "region_boxes"),
                jax.vmap(
                    lambda *one: region_losses(one[:2], anchors, *one[2:], recipe.sampled_anchors)
                )(logits, deltas, batch.boxes, keys[:, 0]),
                strict=True,
            )
        )
        proposals = find_proposals(
            model, regions, batch.sizes, recipe.level_proposals, recipe.proposals
        )
        sampled = jax.vmap(lambda *one: sample_proposals(*one, count))(
            proposals, batch.boxes, keys[:, 1]
        )
        size = len(batch.patches)
        logits, deltas = apply("find_boxes", pool(model, levels, sampled.boxes, BOX_BINS))
        logits, deltas = (x.reshape(size, -1, *x.shape[1:]) for x in (logits, deltas))
        losses["classes"], losses["boxes"] = jax.vmap(of_boxes)(
            logits, deltas, sampled, batch.boxes, batch.classes
        )
        if model.masks:
            few = most_positive(sampled.labels.shape[1], PROPOSAL_SHARE)  # they come first
            first = jax.tree.map(lambda x: x[:, :few], sampled)
            logits = apply("find_masks", pool(model, levels, first.boxes, MASK_BINS))
            logits = logits.reshape(size, few, *logits.shape[1:])
            losses["masks"] = jax.vmap(of_masks)(
                logits, first, batch.boxes, batch.classes, batch.masks
            )
        metrics = {f"loss_{name}": jnp.mean(value) for name, value in losses.items()}
        loss = sum(metrics.values())
        positive = jnp.mean((sampled.labels == POSITIVE).astype(jnp.float32))
        return loss, (metrics | {"loss": loss, "positive_proposals": positive}, None)

    return loss_of


def make_detect_step(
    model: Detector,
    recipe: DetectRecipe,
    optimizer: optax.GradientTransformation,
    descend: Descend = descend,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds the step: `(state, images, sizes, boxes, classes, masks, key, schedule)`.

    It returns `(state, metrics)`. It is pure, and everything random is drawn by `(key, step)`.

    Args:
        descend: the learning rates of the layers; see `encoder_rates`.
    """
    update = make_update(detection_loss(model, recipe), optimizer, recipe.accumulation, descend)

    def detect_step(state, images, sizes, boxes, classes, masks, key, schedule):
        batch = prepare(model, recipe, images, sizes, boxes, classes, masks, key, state.step)
        state, (metrics, _) = update(state, batch, schedule)
        return state, metrics

    return detect_step
