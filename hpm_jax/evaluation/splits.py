"""Where a setting is chosen: on a part of the training images that nothing was fitted to."""

import numpy as np

from hpm_jax.data.sources import set_apart

HELD_OUT = 0.1


def hold_out(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(examples)` at random into a large part and a tenth, at least 1, both sorted."""
    rest, apart = set_apart(examples, max(1, round(HELD_OUT * examples)), seed)
    return rest.astype(np.int32), apart.astype(np.int32)
