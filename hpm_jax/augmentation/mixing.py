"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), one mixture for a whole batch."""

import jax
import jax.numpy as jnp
from jax import Array


def smooth_labels(labels: Array, classes: int, smoothing: float) -> Array:
    """One-hot targets `[B, classes]` float32, a share of which is spread over all classes.

    Args:
        labels: `[B]` int, from 0 to `classes` - 1.
        smoothing: that share (Szegedy et al. 2016): `smoothing / classes` for every class, and
            `1 - smoothing` more for the right one.
    """
    return (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes


def mix(
    key: Array,
    images: Array,
    targets: Array,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float,
    switch_probability: float,
) -> tuple[Array, Array]:
    """Mixes each image, and its target, with the one at the same place from the batch's end.

    A share `lambda ~ Beta(alpha, alpha)` of each image is kept. Mixup blends all pixels with it;
    CutMix replaces a box with `1 - lambda` of the area, and what the image's edge cuts off that
    box is given back to lambda, so that targets are mixed as pixels are.

    Args:
        images: `[B, H, W, C]` float32, or clips `[B, T, H, W, C]`, every frame alike.
        targets: `[B, classes]` float32.
        mixup_alpha: of mixup; 0 turns it off.
        cutmix_alpha: of CutMix; 0 turns it off.
        probability: that a batch is mixed at all.
        switch_probability: that it is by CutMix, where both are on.

    Returns:
        The mixed images and targets.
    """
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return images, targets
    which, whether, how_much, where = jax.random.split(key, 4)
    both = mixup_alpha > 0 and cutmix_alpha > 0
    cut = jax.random.bernoulli(which, switch_probability) if both else cutmix_alpha > 0
    alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    kept = jax.random.beta(how_much, alpha, alpha)
    kept = jnp.where(jax.random.bernoulli(whether, probability), kept, 1.0)
    box = _cutmix_box(where, kept, *images.shape[-3:-1])
    # No cond: either way is a blend with weights [H, W], one pass over the pixels that XLA fuses.
    weights = jnp.where(cut, 1.0 - box, kept)[..., None]
    kept = jnp.where(cut, 1.0 - box.mean(), kept)  # exactly 1 for an empty box
    mixed = weights * images + (1 - weights) * images[::-1]
    return mixed, kept * targets + (1 - kept) * targets[::-1]


def _cutmix_box(key: Array, kept: Array, height: int, width: int) -> Array:
    """1 in a box, 0 around it, `[H, W]` float32; no 1 at all where `kept` is 1.

    Its centre is uniform, its sides are `sqrt(1 - kept)` of the image's, before the edges cut.
    """
    inside = []
    for side_key, side in zip(jax.random.split(key), (height, width), strict=True):
        length = (side * jnp.sqrt(1 - kept)).astype(jnp.int32)
        start = jax.random.randint(side_key, (), 0, side) - length // 2
        place = jnp.arange(side)
        inside.append((place >= start) & (place < start + length))
    return (inside[0][:, None] & inside[1]).astype(jnp.float32)
