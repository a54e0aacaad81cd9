"""Relative positions: a learned bias of attention for each offset between two patches (BEiT).

Bao et al. 2021 (2106.08254), after Swin: the score of a query at (y, x) and a key at (v, u) gets
`table[y - v, x - u]` of its head. Pairs with a token that is no patch have three entries of their
own: from such a token to a patch, from a patch to it, and between such tokens.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Relative(NamedTuple):
    """The tokens between which offsets are counted."""

    rows: int
    columns: int
    extra: int  # tokens before the patches: cls token and registers

    @property
    def entries(self) -> int:
        """Number of entries of a table."""
        return (2 * self.rows - 1) * (2 * self.columns - 1) + 3


@functools.lru_cache(maxsize=16)
def offsets(tokens: Relative) -> np.ndarray:
    """Returns the entry of the table of each query (rows) and key (columns): int32 `[N, N]`."""
    rows, columns, extra = tokens
    place = np.indices((rows, columns)).reshape(2, -1)
    down, across = place[:, :, None] - place[:, None, :]
    inner = (down + rows - 1) * (2 * columns - 1) + across + columns - 1
    count = rows * columns
    found = np.full((extra + count, extra + count), tokens.entries - 1, np.int32)
    found[extra:, extra:] = inner
    found[:extra, extra:] = tokens.entries - 3
    found[extra:, :extra] = tokens.entries - 2
    return found


def relative_bias(table: Array, tokens: Relative) -> Array:
    """Returns the bias of the scores of each head, `[1, heads, N, N]`, of `[entries, heads]`."""
    return jnp.moveaxis(table[offsets(tokens)], -1, 0)[None]
