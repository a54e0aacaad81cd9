"""Applies a function of batches to arrays of any length."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def in_batches(function: Callable[..., Any], size: int, *arrays: np.ndarray) -> Any:
    """Applies `function` to arrays `[N, ...]` in batches of `size` rows: `[N, ...]`.

    The last batch is padded with its first row, so that one compiled program is used for all.
    """
    found = []
    for start in range(0, len(arrays[0]), size):
        parts = [x[start : start + size] for x in arrays]
        count = len(parts[0])
        filled = (np.concatenate([x, np.repeat(x[:1], size - count, axis=0)]) for x in parts)
        found.append(jax.tree.map(lambda x: np.asarray(x)[:count], function(*filled)))  # noqa: B023
    return jax.tree.map(lambda *x: np.concatenate(x), *found)
