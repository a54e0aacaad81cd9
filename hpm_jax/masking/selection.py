"""From scores to masks: one routine for every strategy."""

import jax.numpy as jnp
from jax import Array

from hpm_jax.tokens import Mask


def hidden_count(patches: int, ratio: float, name: str = "patches") -> int:
    """How many of `patches` a mask ratio hides: `L - int(L * (1 - ratio))`, as HPM and MAE count.

    Args:
        name: what they are called in the error.

    Raises:
        ValueError: where nothing would be hidden, or nothing kept.
    """
    count = patches - int(patches * (1 - ratio))
    if not 0 < count < patches:
        raise ValueError(
            f"mask ratio {ratio} hides {count} of {patches} {name}, and at least one must be "
            f"hidden and one kept: choose a ratio from {1 / patches:.3g} to {1 - 1 / patches:.3g}."
        )
    return count


def select(scores: Array, count: int) -> Mask:
    """Hides the `count` patches of each image with the highest scores `[B, L]`.

    The count is static, so every mask of a run has one shape.
    """
    order = jnp.argsort(scores, axis=1)  # a sort on jax.lax, NaN last: what is not a number is hard
    split = scores.shape[1] - count
    return Mask(jnp.sort(order[:, :split], axis=1), jnp.sort(order[:, split:], axis=1))


def select_some(scores: Array, least: int, most: int, count: Array) -> Mask:
    """Hides the highest `count` of each image, a traced number from `least` to `most`.

    The shapes are those of the extremes: `keep` has all but `least` patches, and those that are
    hidden now are marked in `replaced`; `hide` has `most`, and only those hidden now are `counted`.
    (MAGE, Li et al. 2022, masks the surplus in place likewise.)
    """
    length = scores.shape[1]
    order = jnp.argsort(scores, axis=1)
    hidden = jnp.argsort(order, axis=1) >= length - count  # by rank
    keep = jnp.sort(order[:, : length - least], axis=1)
    hide = jnp.sort(order[:, length - most :], axis=1)
    replaced, counted = (jnp.take_along_axis(hidden, x, axis=1) for x in (keep, hide))
    return Mask(keep, hide, replaced, counted)


def count_some(mask: Mask, noise: Array, share: Array) -> Mask:
    """Lets a random share of the hidden patches into the loss, at least two.

    Args:
        noise: `[B, M]`, uniform.
        share: traced, of the patches that are hidden now.
    """
    within = jnp.ones(mask.hide.shape, bool) if mask.counted is None else mask.counted
    hidden = within.sum(axis=1, keepdims=True)
    rank = jnp.argsort(jnp.argsort(jnp.where(within, noise, 2.0), axis=1), axis=1)
    wanted = jnp.maximum(jnp.round(share * hidden.astype(jnp.float32)), 2.0)
    return mask._replace(counted=within & (rank.astype(jnp.float32) < wanted))


def replace_some(mask: Mask, noise: Array, ratio: float) -> Mask:
    """Marks a random share of the visible patches, which the student sees a learned token for.

    HPM's secondary masking: of V visible patches `int(V * (1 - ratio))` stay (spec of the official
    `vis_mask_ratio`).

    Args:
        noise: `[B, K]`, uniform.
    """
    length = mask.keep.shape[1]
    stay = int(length * (1 - ratio))
    replaced = jnp.argsort(jnp.argsort(noise, axis=1), axis=1) >= stay
    return mask._replace(replaced=replaced if mask.replaced is None else mask.replaced | replaced)
