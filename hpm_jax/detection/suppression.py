"""Non-maximum suppression with an output of fixed size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from hpm_jax.detection.boxes import overlap
from hpm_jax.tokens import AnyArray


class Kept(NamedTuple):
    """The K best boxes that remain, best first."""

    indices: Int[Array, " K"]  # of the input; 0 for places that no box fills
    valid: Bool[Array, " K"]


def suppress(
    boxes: Float[AnyArray, "N 4"],
    scores: Float[AnyArray, " N"],
    threshold: float,
    count: int,
    classes: Int[AnyArray, " N"] | None = None,
    valid: Bool[AnyArray, " N"] | None = None,
) -> Kept:
    """Keeps the best `count` boxes that no better kept one overlaps by more than `threshold`.

    The result is that of the greedy algorithm. It is found as the fixed point of "kept unless a
    better kept box overlaps it" over the sorted boxes: each pass settles one more link of every
    chain of overlaps, and chains are short, while the greedy loop has a pass for every box.

    Args:
        classes: boxes of different classes do not suppress each other; None for one class.
        valid: which boxes take part; None for all. Scores that are not finite take no part.
    """
    taking_part = jnp.isfinite(scores) if valid is None else valid & jnp.isfinite(scores)
    order = jnp.argsort(jnp.where(taking_part, -scores, jnp.inf), stable=True)
    ordered = boxes[order]
    beats = overlap(ordered, ordered) > threshold
    beats &= jnp.tri(len(boxes), k=-1, dtype=bool).T  # [better, worse]
    if classes is not None:
        beats &= classes[order][:, None] == classes[order][None]
    start = taking_part[order]

    def changed(pair):
        return jnp.any(pair[0] != pair[1])

    def settle(pair):
        _, kept = pair
        return kept, start & ~jnp.any(beats & kept[:, None], axis=0)

    _, kept = jax.lax.while_loop(changed, settle, (~start, start))
    # the first `count` kept ones, in the order of their scores
    places = jnp.argsort(~kept, stable=True)[:count]
    valid = kept[places]
    missing = max(0, count - len(boxes))
    indices = jnp.pad(jnp.where(valid, order[places], 0), (0, missing))
    return Kept(indices.astype(jnp.int32), jnp.pad(valid, (0, missing)))
