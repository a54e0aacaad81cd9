"""The losses of Mask R-CNN for one image, each a mean over its sampled boxes."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from hpm_jax.tokens import AnyArray


def binary_cross_entropy(
    logits: Float[AnyArray, "*batch"], targets: AnyArray
) -> Float[Array, "*batch"]:
    """Returns `-y log sigmoid(x) - (1 - y) log sigmoid(-x)`, finite for any logit."""
    return jax.nn.softplus(logits) - logits * targets


def smooth_l1(difference: Float[AnyArray, "*batch"], beta: float) -> Float[Array, "*batch"]:
    """Returns `d^2 / (2 beta)` where |d| < beta, else `|d| - beta / 2` (Girshick 2015).

    `beta` 0 is the absolute difference.
    """
    size = jnp.abs(difference)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def objectness_loss(
    logits: Float[AnyArray, " K"], positive: Bool[AnyArray, " K"], sampled: Bool[AnyArray, " K"]
) -> Float[Array, ""]:
    """Binary cross-entropy of the sampled anchors, over their fixed number K."""
    losses = binary_cross_entropy(logits, positive.astype(logits.dtype))
    return jnp.sum(jnp.where(sampled, losses, 0.0)) / len(logits)


def box_loss(
    deltas: Float[AnyArray, "K 4"],
    targets: Float[AnyArray, "K 4"],
    positive: Bool[AnyArray, " K"],
    beta: float = 0.0,
) -> Float[Array, ""]:
    """Smooth L1 of the positive boxes, summed over coordinates, over the K sampled ones.

    Dividing by all of them weights positive boxes equally in every image (Fast R-CNN).
    """
    losses = smooth_l1(deltas - targets, beta).sum(axis=-1)
    return jnp.sum(jnp.where(positive, losses, 0.0)) / len(deltas)


def class_loss(
    logits: Float[AnyArray, "K classes"], targets: Int[AnyArray, " K"]
) -> Float[Array, ""]:
    """Cross-entropy of the sampled proposals; the last class is the background.

    Negative targets are places that no proposal fills; the mean is over the others.
    """
    known = jnp.maximum(targets, 0)
    own = jnp.take_along_axis(logits, known[:, None], axis=-1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - own
    count = jnp.maximum(jnp.sum(targets >= 0), 1).astype(logits.dtype)
    return jnp.sum(jnp.where(targets >= 0, losses, 0.0)) / count


def mask_loss(
    logits: Float[AnyArray, "K M M"],
    targets: Bool[AnyArray, "K M M"],
    positive: Bool[AnyArray, " K"],
) -> Float[Array, ""]:
    """Binary cross-entropy of the pixels of positive proposals that have a mask; 0 without any."""
    losses = binary_cross_entropy(logits, targets.astype(logits.dtype)).mean(axis=(1, 2))
    count = jnp.maximum(jnp.sum(positive), 1).astype(logits.dtype)
    return jnp.sum(jnp.where(positive, losses, 0.0)) / count
