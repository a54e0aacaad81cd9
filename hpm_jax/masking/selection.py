"""Converts scores to masks, in the same way for every strategy."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from hpm_jax.tokens import AnyArray, Mask


def hidden_count(patches: int, ratio: float, name: str = "patches") -> int:
    """Returns the number of hidden patches, `L - int(L * (1 - ratio))`, as in HPM and MAE.

    Args:
        name: what the patches are called in the error.

    Raises:
        ValueError: if nothing would be hidden, or nothing kept.
    """
    count = patches - int(patches * (1 - ratio))
    if not 0 < count < patches:
        raise ValueError(
            f"mask ratio {ratio} hides {count} of {patches} {name}, and at least one must be "
            f"hidden and one kept: choose a ratio from {1 / patches:.3g} to {1 - 1 / patches:.3g}."
        )
    return count


def select(scores: Float[AnyArray, "B L"], count: int) -> Mask:
    """Hides the `count` patches of each image with the highest scores `[B, L]`.

    The count is static, so every mask of a run has one shape.
    """
    order = jnp.argsort(scores, axis=1)  # a sort by jax.lax puts NaN last, so NaN counts as hard
    split = scores.shape[1] - count
    return Mask(jnp.sort(order[:, :split], axis=1), jnp.sort(order[:, split:], axis=1))


def select_some(
    scores: Float[AnyArray, "B L"], least: int, most: int, count: Int[AnyArray, ""]
) -> Mask:
    """Hides the highest `count` patches of each image, a traced number from `least` to `most`.

    The shapes are static: `keep` has all patches except `least`, and `replaced` marks those that
    are hidden in this step; `hide` has `most` patches, and `counted` marks those that are hidden in
    this step. (MAGE, Li et al. 2022, masks the surplus in place in the same way.)
    """
    length = scores.shape[1]
    order = jnp.argsort(scores, axis=1)
    hidden = jnp.argsort(order, axis=1) >= length - count  # by rank
    keep = jnp.sort(order[:, : length - least], axis=1)
    hide = jnp.sort(order[:, length - most :], axis=1)
    replaced, counted = (jnp.take_along_axis(hidden, x, axis=1) for x in (keep, hide))
    return Mask(keep, hide, replaced, counted)


def count_some(mask: Mask, noise: Float[AnyArray, "B M"], share: Float[AnyArray, ""]) -> Mask:
    """Selects a random fraction of the hidden patches for the loss, at least two.

    Args:
        noise: `[B, M]`, uniform.
        share: traced fraction of the patches that are hidden in this step.
    """
    within = jnp.ones(mask.hide.shape, bool) if mask.counted is None else mask.counted
    hidden = within.sum(axis=1, keepdims=True)
    rank = jnp.argsort(jnp.argsort(jnp.where(within, noise, 2.0), axis=1), axis=1)
    wanted = jnp.maximum(jnp.round(share * hidden.astype(jnp.float32)), 2.0)
    return mask._replace(counted=within & (rank.astype(jnp.float32) < wanted))


def ask_some(mask: Mask, noise: Float[AnyArray, "B M"], count: int) -> Mask:
    """Keeps a random, static number of the hidden patches in `hide`: only those are predicted.

    The rest stays hidden. Patches that enter the loss come first. (CrossMAE, Fu et al. 2024,
    section 3.3: the prediction ratio.)

    Args:
        noise: `[B, M]`, uniform.
        count: number of patches to predict, Q.

    Returns:
        A mask with `hide` and `counted` `[B, Q]`, in raster order.
    """
    order = noise if mask.counted is None else jnp.where(mask.counted, noise, 1.0 + noise)
    asked = jnp.sort(jnp.argsort(order, axis=1)[:, :count], axis=1)
    mask = mask._replace(hide=jnp.take_along_axis(mask.hide, asked, axis=1))
    if mask.counted is None:
        return mask
    return mask._replace(counted=jnp.take_along_axis(mask.counted, asked, axis=1))


def replace_some(mask: Mask, noise: Float[AnyArray, "B K"], ratio: float) -> Mask:
    """Marks a random fraction of the visible patches to be replaced by a learned token.

    HPM's secondary masking: of V visible patches `int(V * (1 - ratio))` stay (specification of the
    official `vis_mask_ratio`).

    Args:
        noise: `[B, K]`, uniform.
    """
    length = mask.keep.shape[1]
    stay = int(length * (1 - ratio))
    replaced = jnp.argsort(jnp.argsort(noise, axis=1), axis=1) >= stay
    return mask._replace(replaced=replaced if mask.replaced is None else mask.replaced | replaced)
