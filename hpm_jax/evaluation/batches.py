"""A function of batches, over arrays of any length."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def in_batches(function: Callable[..., Any], size: int, *arrays: np.ndarray) -> Any:
    """What `function` gives of arrays `[N, ...]`, a batch of `size` rows at a time: `[N, ...]`.

    The last batch is filled up with its first row, so that one program serves all of them.
    """
    found = []
    for start in range(0, len(arrays[0]), size):
        parts = [x[start : start + size] for x in arrays]
        count = len(parts[0])
        filled = (np.concatenate([x, np.repeat(x[:1], size - count, axis=0)]) for x in parts)
        found.append(jax.tree.map(lambda x: np.asarray(x)[:count], function(*filled)))  # noqa: B023
    return jax.tree.map(lambda *x: np.concatenate(x), *found)
