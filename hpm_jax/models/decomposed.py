"""Decomposed relative positions: the score of a pair depends on the query and on both offsets.

Li et al. 2022 (MViTv2, 2112.01526, equation 4), as in ViTDet (2203.16527): a query q at (y, x) and
a key at (v, u) get `q · R[y - v] + q · C[x - u]` beside their score. Each head has the same tables.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Decomposed(NamedTuple):
    """The tokens between which offsets are counted, and the side of the largest such map."""

    rows: int
    columns: int
    most_rows: int  # of all maps that share the tables: those of an image and those of a window
    most_columns: int

    def shapes(self, head: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the shapes of both tables for heads of width `head`."""
        return (2 * self.most_rows - 1, head), (2 * self.most_columns - 1, head)


def side_offsets(length: int, most: int) -> np.ndarray:
    """Returns the row of a table of each query (rows) and key (columns): int32 `[n, n]`."""
    place = np.arange(length)
    return (place[:, None] - place[None] + most - 1).astype(np.int32)


def with_offsets(
    query: Array, key: Array, tables: tuple[Array, Array], tokens: Decomposed
) -> tuple[Array, Array]:
    """Returns wider queries and keys, whose scaled product has the terms of both offsets.

    The products of a query with the offsets to each row and column are appended to it, and to a
    key its own row and column, one-hot. No bias of N x N is stored, and the attention that follows
    is the ordinary one.

    Args:
        query, key: `[B, heads, N, d]` of N = rows x columns tokens; the query unscaled.
        tables: R and C, see `Decomposed.shapes`.
        tokens: the map.

    Returns:
        Both as `[B, heads, N, d + rows + columns]`. A scale of one over the root of that width,
        as attention has it, leaves the first part with that of d, and the terms without any.
    """
    rows, columns, most_rows, most_columns = tokens
    batch, heads, count, head = query.shape
    down = tables[0][side_offsets(rows, most_rows)].astype(query.dtype)
    across = tables[1][side_offsets(columns, most_columns)].astype(query.dtype)
    maps = query.reshape(batch, heads, rows, columns, head)
    of_rows = jnp.einsum("bhyxd,yvd->bhyxv", maps, down)
    of_columns = jnp.einsum("bhyxd,xud->bhyxu", maps, across)
    terms = jnp.concatenate([of_rows, of_columns], axis=-1).reshape(batch, heads, count, -1)
    place = np.indices((rows, columns)).reshape(2, -1)
    where = np.concatenate([np.eye(rows)[place[0]], np.eye(columns)[place[1]]], axis=1)
    places = jnp.broadcast_to(jnp.asarray(where, key.dtype), (batch, heads, *where.shape))
    root = (head + rows + columns) ** 0.5
    query = jnp.concatenate([query * (root / head**0.5), terms * root], axis=-1)
    return query, jnp.concatenate([key, places], axis=-1)
