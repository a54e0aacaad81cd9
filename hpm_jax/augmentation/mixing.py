"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), by the rules of timm's `Mixup`."""

import jax
import jax.numpy as jnp
from jax import Array

MIXUP_MODES = ("batch", "pair", "elem")


def smooth_labels(labels: Array, classes: int, smoothing: float) -> Array:
    """Returns smoothed one-hot targets `[B, classes]` float32 (Szegedy et al. 2016).

    Args:
        labels: `[B]` int, from 0 to `classes` - 1.
        smoothing: every class gets `smoothing / classes`, the right one `1 - smoothing` more.
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
    groups: int = 1,
    mode: str = "batch",
    minmax: tuple[float, ...] = (),
) -> tuple[Array, Array]:
    """Mixes image i of each group, and its target, with image i from the end of the group.

    A fraction `lambda ~ Beta(alpha, alpha)` of each image is kept. Mixup blends all pixels with it.
    CutMix replaces a box with `1 - lambda` of the area; lambda is corrected for the part of the box
    outside the image, so that targets are mixed in the same proportion as pixels.

    Args:
        images: `[B, H, W, C]` float32, or clips `[B, T, H, W, C]`, mixed equally in every frame.
        targets: `[B, classes]` float32.
        mixup_alpha: alpha of Mixup; 0 turns it off.
        cutmix_alpha: alpha of CutMix; 0 turns it off.
        probability: probability of mixing.
        switch_probability: probability of CutMix rather than Mixup, if both are on.
        groups: number of parts of consecutive images, each mixed separately. The official codes mix
            the batch of each device separately.
        mode: which images share lambda and the box: a group ("batch"), an image and its partner
            ("pair"), or none ("elem").
        minmax: smallest and largest side of CutMix's box, as fractions of the image's, drawn
            uniformly in place of lambda; this turns CutMix on. () draws lambda.

    Returns:
        The mixed images and targets.
    """
    if mixup_alpha == 0 and cutmix_alpha == 0 and not minmax:
        return images, targets
    cutmix_alpha = 1.0 if minmax else cutmix_alpha
    batch, (height, width) = len(images), images.shape[-3:-1]
    size = batch // groups
    each = {"batch": 1, "pair": -(-size // 2), "elem": size}[mode]  # number of draws per group
    shape = (groups, each)
    which, whether, how_much, where = jax.random.split(key, 4)
    both = mixup_alpha > 0 and cutmix_alpha > 0
    cut = jax.random.bernoulli(
        which, switch_probability if both else float(mixup_alpha == 0), shape
    )
    alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    kept = jax.random.beta(how_much, alpha, alpha)
    mixed = jax.random.bernoulli(whether, probability, shape)
    kept = jnp.where(mixed, kept, 1.0)
    if minmax:
        box = _minmax_box(where, shape, height, width, minmax)
        box = jnp.where(mixed[..., None, None], box, 0.0)
    else:
        box = _cutmix_box(where, kept, height, width)
    # No cond: either way is a blend with weights [H, W], one pass over the pixels that XLA fuses.
    weights = jnp.where(cut[..., None, None], 1.0 - box, kept[..., None, None])
    kept = jnp.where(cut, 1.0 - box.mean(axis=(-2, -1)), kept)  # exactly 1 for an empty box
    frames = images.ndim - 4
    weights = _for_images(weights, size).reshape(groups, -1, *[1] * frames, height, width, 1)
    kept = _for_images(kept, size)[..., None]
    return _blend(images, weights, groups), _blend(targets, kept, groups)


def _for_images(draws: Array, size: int) -> Array:
    """Expands draws `[G, D, ...]` to the images of each group: `[G, size, ...]` or `[G, 1, ...]`.

    With one draw per pair, the second half of a group has those of the first half in reverse order.
    """
    if draws.shape[1] in (1, size):
        return draws
    return jnp.concatenate([draws, draws[:, : size // 2][:, ::-1]], axis=1)


def _blend(values: Array, kept: Array, groups: int) -> Array:
    """Blends each value with its partner in the proportion `kept` `[G, B / G, ...]`: `[B, ...]`."""
    grouped = values.reshape(groups, -1, *values.shape[1:])
    return (kept * grouped + (1 - kept) * grouped[:, ::-1]).reshape(values.shape)


def _cutmix_box(key: Array, kept: Array, height: int, width: int) -> Array:
    """Returns 1 in a box, 0 around it, `[..., H, W]` float32; empty if `kept` `[...]` is 1.

    The centre is uniform; the sides are `sqrt(1 - kept)` of the image's, before clipping.
    """
    spans = []
    for side_key, side in zip(jax.random.split(key), (height, width), strict=True):
        length = (side * jnp.sqrt(1 - kept)).astype(jnp.int32)
        start = jax.random.randint(side_key, kept.shape, 0, side) - length // 2
        spans.append(_span(start, length, side))
    return _box(*spans)


def _minmax_box(
    key: Array, shape: tuple[int, ...], height: int, width: int, minmax: tuple[float, ...]
) -> Array:
    """Returns a box as `_cutmix_box`, with sides uniform in `minmax`, inside the image.

    The upper end of a side is excluded, as in timm's `rand_bbox_minmax`.
    """
    spans = []
    for side_key, side in zip(jax.random.split(key), (height, width), strict=True):
        of_length, of_start = jax.random.split(side_key)
        low, high = (int(side * share) for share in minmax)
        length = jax.random.randint(of_length, shape, low, high)
        start = jax.random.randint(of_start, shape, 0, side - length + 1)
        spans.append(_span(start, length, side))
    return _box(*spans)


def _span(start: Array, length: Array, side: int) -> Array:
    """Returns `[..., side]` bool: an interval of `length` from `start` `[...]`."""
    place = jnp.arange(side)
    return (place >= start[..., None]) & (place < (start + length)[..., None])


def _box(rows: Array, columns: Array) -> Array:
    return (rows[..., :, None] & columns[..., None, :]).astype(jnp.float32)
