"""Label propagation by the affinity of frozen tokens, and the scores of DAVIS.

The protocol is that of DINO's evaluation (Caron et al. 2021, 2104.14294, section 4.2.1), after
Jabri et al. 2020 (2006.14613).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import ndimage


def propagate(
    target: Array,
    sources: Array,
    labels: Array,
    near: Array,
    neighbors: int,
    temperature: float,
) -> Array:
    """Returns the labels of a frame from those of its sources, `[N, K]`, which sum to 1.

    A patch takes the mean of the labels of its `neighbors` most similar source patches within
    reach, weighted by `exp(cosine / temperature)`.

    Args:
        target: tokens of unit length, `[N, D]`.
        sources: those of the sources, `[C, N, D]`.
        labels: `[C, N, K]`.
        near: bool `[C, N, N]`, whether a source patch (the last axis) is within reach.
    """
    cosines = jnp.einsum("nd,cmd->ncm", target, sources)
    reached = jnp.where(near.transpose(1, 0, 2), cosines / temperature, -jnp.inf)
    flat = reached.reshape(len(target), -1)
    values, places = jax.lax.top_k(flat, min(neighbors, flat.shape[1]))
    weights = jax.nn.softmax(values, axis=-1)
    taken = labels.reshape(-1, labels.shape[-1])[places]  # [N, neighbors, K]
    return jnp.einsum("nk,nkc->nc", weights, taken)


def within(grid: tuple[int, int], radius: int) -> np.ndarray:
    """Whether two patches are at most `radius` rows and columns apart: bool `[N, N]`.

    A radius of 0 sets no limit.
    """
    place = np.indices(grid).reshape(2, -1)
    apart = np.abs(place[:, :, None] - place[:, None, :]).max(axis=0)
    return (apart <= radius) if radius else np.ones_like(apart, bool)


def stretched(labels: np.ndarray) -> np.ndarray:
    """Maps the values of each object in a frame to 0 to 1, `[h, w, K]`; DINO's `norm_mask`."""
    low, high = labels.min(axis=(0, 1)), labels.max(axis=(0, 1))
    return np.where(high > 0, (labels - low) / np.maximum(high - low, 1e-12), labels)


class ObjectScores(NamedTuple):
    """The scores of one object in one frame."""

    region: float  # J: intersection over union
    boundary: float  # F


def score_object(truth: np.ndarray, predicted: np.ndarray, tolerance: float) -> ObjectScores:
    """Returns J and F of two masks, bool `[h, w]` (Perazzi et al. 2016).

    J is 1 where both are empty. F is the harmonic mean of precision and recall of the boundary
    pixels, which match within a distance of `tolerance` times the diagonal, rounded up.
    """
    union = np.logical_or(truth, predicted).sum()
    region = float(np.logical_and(truth, predicted).sum() / union) if union else 1.0
    reach = np.ceil(tolerance * np.hypot(*truth.shape))
    edges = boundary(truth), boundary(predicted)
    counts = [edge.sum() for edge in edges]
    if not all(counts):
        return ObjectScores(region, float(not any(counts)))
    recall, precision = (
        float((ndimage.distance_transform_edt(~other)[edge] <= reach).mean())
        for edge, other in (edges, edges[::-1])
    )
    both = precision + recall
    return ObjectScores(region, 2 * precision * recall / both if both else 0.0)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels that differ from the right, lower, or lower right one: bool `[h, w]`."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    below, right, corner = padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]
    return (mask ^ below) | (mask ^ right) | (mask ^ corner)
