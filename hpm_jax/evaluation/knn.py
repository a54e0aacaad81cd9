"""k nearest neighbours on frozen features: the vote of Wu et al. 2018, as DINO and HPM use it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

CHUNK = 512  # queries compared with the whole bank at once


@functools.partial(jax.jit, static_argnames=("neighbors", "classes"))
def knn_predict(
    queries: Array,
    bank: Array,
    labels: Array,
    neighbors: int,
    classes: int,
    temperature: float = 0.07,
) -> Array:
    """The class of each query by a vote of its nearest neighbours, weighted `exp(cosine / T)`.

    Args:
        queries: `[Q, D]` float32.
        bank: `[N, D]` float32, with `labels` `[N]` int32 from 0 to `classes` - 1.
    """
    similarity = _unit(queries) @ _unit(bank).T
    closest, index = jax.lax.top_k(similarity, neighbors)
    # the largest exponent is taken out, so that no weight overflows
    weights = jnp.exp((closest - closest[:, :1]) / temperature)
    votes = jnp.einsum("qk,qkc->qc", weights, jax.nn.one_hot(labels[index], classes))
    return jnp.argmax(votes, axis=1)


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> float:
    """The share of queries `[Q, D]` classified rightly by the bank `[N, D]`."""
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    neighbors = min(neighbors, len(bank))
    correct = 0
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        predicted = knn_predict(chunk, bank, bank_labels, neighbors, classes, temperature)
        correct += int((np.asarray(predicted) == query_labels[start : start + CHUNK]).sum())
    return correct / len(queries)


def _unit(features: Array) -> Array:
    norm = jnp.linalg.norm(features, axis=1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)
