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
