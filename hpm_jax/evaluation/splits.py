"""Where a setting is chosen: on a part of the training images that nothing was fitted to."""

import numpy as np

HELD_OUT = 0.1


def hold_out(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(examples)` at random into a large part and a tenth, at least 1, both sorted."""
    order = np.random.default_rng(seed).permutation(examples).astype(np.int32)
    count = max(1, round(HELD_OUT * examples))
    return np.sort(order[count:]), np.sort(order[:count])
