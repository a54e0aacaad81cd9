"""From the outputs of a detector to boxes: proposals of regions, and final detections."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from hpm_jax.detection.boxes import area, clip, decode
from hpm_jax.detection.suppression import suppress
from hpm_jax.tokens import AnyArray

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of deltas relative to proposals (Fast R-CNN)
REGION_OVERLAP = 0.7  # above which a better proposal of the same level suppresses another


class Proposals(NamedTuple):
    """The P proposals of an image, best first."""

    boxes: Float[Array, "P 4"]
    valid: Bool[Array, " P"]


def propose(
    logits: Sequence[Float[AnyArray, " _"]],
    deltas: Sequence[Float[AnyArray, "_ 4"]],
    anchors: Sequence[AnyArray],
    size: Float[AnyArray, " 2"],
    per_level: int,
    count: int,
) -> Proposals:
    """Chooses proposals from the anchors of one image (Lin et al. 2017, FPN, section 4.1).

    Of every level the `per_level` best anchors are moved, clipped to the image, and suppressed
    among themselves; the best `count` of all levels remain.

    Args:
        size: height and width of the image without padding.
    """
    boxes, scores = [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        few = min(per_level, len(level_logits))
        best, places = jax.lax.top_k(level_logits, few)
        moved = decode(level_deltas[places], jnp.asarray(level_anchors)[places])
        moved = clip(moved, size)
        # the boxes are sorted, and one of every level may be the best of all
        kept = suppress(moved, best, REGION_OVERLAP, min(count, few), valid=area(moved) > 0)
        boxes.append(moved[kept.indices])
        scores.append(jnp.where(kept.valid, best[kept.indices], -jnp.inf))
    every = jnp.concatenate(scores)
    best, places = jax.lax.top_k(every, min(count, len(every)))
    missing = max(0, count - len(every))
    chosen = jnp.pad(jnp.concatenate(boxes)[places], ((0, missing), (0, 0)))
    return Proposals(chosen, jnp.pad(best > -jnp.inf, (0, missing)))


class Found(NamedTuple):
    """The K detections of an image, best first."""

    boxes: Float[Array, "K 4"]
    scores: Float[Array, " K"]  # 0 where there is no detection
    classes: Int[Array, " K"]


def choose(
    logits: Float[AnyArray, "P classes"],
    deltas: Float[AnyArray, "P _ 4"],
    proposals: Proposals,
    size: Float[AnyArray, " 2"],
    lowest_score: float,
    overlap: float,
    candidates: int,
    count: int,
) -> Found:
    """Chooses detections from the pairs of proposal and class of one image.

    The `candidates` best pairs of at least `lowest_score` are suppressed class by class.

    Args:
        logits: of classes and background, which is the last.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)[:, :-1]
    scores = jnp.where(proposals.valid[:, None], probabilities, 0.0).reshape(-1)
    number = probabilities.shape[1]
    best, places = jax.lax.top_k(scores, min(candidates, len(scores)))
    proposal, label = places // number, places % number
    boxes = decode(deltas[proposal, label], proposals.boxes[proposal], BOX_WEIGHTS)
    boxes = clip(boxes, size)
    valid = (best >= lowest_score) & (best > 0) & (area(boxes) > 0)
    kept = suppress(boxes, best, overlap, count, label, valid)
    return Found(
        jnp.where(kept.valid[:, None], boxes[kept.indices], 0.0),
        jnp.where(kept.valid, best[kept.indices], 0.0),
        jnp.where(kept.valid, label[kept.indices], 0).astype(jnp.int32),
    )
