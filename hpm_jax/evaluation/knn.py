"""k nearest neighbours on frozen features: the vote of Wu et al. 2018, as DINO and HPM use it."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.config import ConfigError
from hpm_jax.evaluation.checks import check_bank, check_finite_features

SIMILARITIES = 2**26  # computed at once, queries times bank: 256 MiB
BLOCK = 128  # number of columns per search block


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    neighbors: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, float]:
    """Returns the top-1 accuracy of `knn_accuracies`, by number of neighbours."""
    found = knn_accuracies(bank, bank_labels, queries, query_labels, neighbors, temperature)
    return {count: top1 for count, (top1, _) in found.items()}


def knn_accuracies(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    neighbors: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, tuple[float, float]]:
    """Returns top-1 and top-5 accuracy of queries `[Q, D]` with a bank `[N, D]`, by neighbours.

    A query is in the top 5 if its class has votes, and fewer than five other classes have as many
    votes. All numbers of neighbours share one search. A number larger than the bank is reduced to
    its size, and keeps its name in the result.

    Raises:
        DataError: see `check_bank`.
        ConfigError: for neighbours below 1.
    """
    classes = check_bank(bank, bank_labels, queries, query_labels)
    if min(neighbors) < 1:
        raise ConfigError(f"neighbors = {tuple(neighbors)}: expected at least 1 each")
    counts = tuple(min(count, len(bank)) for count in neighbors)
    closest, index = nearest(
        np.asarray(queries, np.float32), np.asarray(bank, np.float32), max(counts)
    )
    labels = np.asarray(bank_labels, np.int32)[np.asarray(index)]
    labels_of_queries = jnp.asarray(query_labels, jnp.int32)
    predicted, ranks = vote(closest, labels, labels_of_queries, counts, classes, temperature)
    top1 = (np.asarray(predicted) == query_labels).mean(axis=1)
    top5 = (np.asarray(ranks) < 5).mean(axis=1)
    shares = zip(neighbors, top1.tolist(), top5.tolist(), strict=True)
    return {count: (first, five) for count, first, five in shares}


@functools.partial(jax.jit, static_argnames="count")
def nearest(queries: Array, bank: Array, count: int) -> tuple[Array, Array]:
    """Returns the largest cosines of each query with the bank, best first, and their indices.

    The whole bank is on the device; queries are compared with it in chunks.

    Args:
        queries: `[Q, D]` float32.
        bank: `[N, D]` float32.
        count: from 1 to N.

    Returns:
        Cosines `[Q, count]` float32, and indices into the bank `[Q, count]` int32.
    """
    bank = _unit(bank)

    def search(chunk):
        return largest(jnp.matmul(_unit(chunk), bank.T, precision="highest"), count)

    size = min(len(queries), max(1, SIMILARITIES // len(bank)))
    chunks = _pad(queries, size, axis=0).reshape(-1, size, queries.shape[1])
    found = jax.lax.map(search, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, count)[: len(queries)], found)


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """Computes `jax.lax.top_k` of the rows of `[Q, N]` exactly, and faster for long rows.

    The `count` largest values are in the `count` blocks with the largest maxima: any other value
    has at least that many values above it. So only these blocks are sorted.
    """
    rows = len(values)
    blocks = _pad(values, BLOCK, axis=1, fill=-jnp.inf).reshape(rows, -1, BLOCK)
    _, best = jax.lax.top_k(blocks.max(axis=2), min(count, blocks.shape[1]))
    survivors = jnp.take_along_axis(blocks, best[:, :, None], axis=1).reshape(rows, -1)
    top, place = jax.lax.top_k(survivors, count)
    return top, jnp.take_along_axis(best, place // BLOCK, axis=1) * BLOCK + place % BLOCK


# Compiled separately from `nearest`: XLA on CPUs sorts whole rows, ten times slower, if the result
# of top_k is sliced in the same program.
@functools.partial(jax.jit, static_argnames=("neighbors", "classes"))
def vote(
    closest: Array,
    labels: Array,
    query_labels: Array,
    neighbors: tuple[int, ...],
    classes: int,
    temperature: float,
) -> tuple[Array, Array]:
    """Classifies each query by a vote of its nearest neighbours, weighted `exp(cosine / T)`.

    Args:
        closest: `[Q, k]` float32, the cosines, best first.
        labels: `[Q, k]` int32, from 0 to `classes` - 1.
        query_labels: `[Q]` int32, the true classes of the queries.
        neighbors: numbers of voting neighbours, each from 1 to k.

    Returns:
        The classes `[len(neighbors), Q]` int32; and, in the same shape, the number of other classes
        with at least as many votes as the true one, which is all of them if it has no votes.
    """
    # the largest exponent is subtracted, so that no weight overflows
    weights = jnp.exp((closest - closest[:, :1]) / temperature)
    rows = jnp.arange(len(labels))[:, None]
    nobody = jnp.zeros((len(labels), classes))
    votes = [nobody.at[rows, labels[:, :count]].add(weights[:, :count]) for count in neighbors]
    own = [jnp.take_along_axis(each, query_labels[:, None], axis=1) for each in votes]
    others = [jnp.sum(each >= mine, axis=1) - 1 for each, mine in zip(votes, own, strict=True)]
    ranks = [
        jnp.where(mine[:, 0] > 0, rank, classes) for rank, mine in zip(others, own, strict=True)
    ]
    return jnp.stack([jnp.argmax(each, axis=1) for each in votes]), jnp.stack(ranks)


def _unit(features: Array) -> Array:
    norm = jnp.linalg.norm(features, axis=1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)


def _pad(array: Array, multiple: int, axis: int, fill: float = 0.0) -> Array:
    """Lengthens `axis` of a matrix to the next multiple."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, -array.shape[axis] % multiple)
    return jnp.pad(array, widths, constant_values=fill)


def rank_me(features: np.ndarray) -> float:
    """Computes the effective rank of features, without labels (RankMe, Garrido et al. 2023).

    The exponential of the entropy of the singular values of `[N, D]`: from 1 to min(N, D).

    A falling rank indicates a collapse of the features.

    Raises:
        DataError: for features that are not finite.
    """
    check_finite_features(features, "RankMe")
    singular = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    # features of a collapsed encoder may all be 0
    share = singular / max(singular.sum(), np.finfo(np.float64).tiny) + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))
