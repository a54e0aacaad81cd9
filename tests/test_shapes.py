"""The shapes and dtypes that functions declare are checked in tests; see tests/conftest.py."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from hpm_jax.losses.ranking import relative
from hpm_jax.losses.reconstruction import squared_error
from hpm_jax.masking.selection import replace_some, select
from hpm_jax.models.encoder import put_first
from hpm_jax.step.criterion import cross_entropy
from hpm_jax.step.update import split
from hpm_jax.tokens import Tokenizer, gather, patchify

TOKENIZER = Tokenizer((1, 4, 4), (0.5,), (0.5,))


@pytest.mark.parametrize(
    "call",
    [
        lambda: TOKENIZER(np.zeros((2, 8, 8, 1), np.uint16)),  # pixels in an unknown range
        lambda: patchify(jnp.zeros((2, 8, 8, 1), jnp.int32), (1, 4, 4)),
        lambda: gather(jnp.zeros((2, 4, 3)), jnp.zeros((3, 1), jnp.int32)),  # of other images
        lambda: gather(jnp.zeros((2, 4, 3)), jnp.zeros((2, 1))),  # indices that are no integers
        lambda: cross_entropy(jnp.zeros((2, 5)), jnp.zeros((2, 1))),  # what would broadcast
        lambda: split(np.zeros((4, 2)), "2"),
        lambda: relative(jnp.zeros((2, 5)), jnp.zeros((2, 1))),  # what would broadcast
        lambda: squared_error(jnp.zeros((2, 5, 3)), jnp.zeros((2, 5, 1))),
        lambda: select(jnp.zeros((2, 5, 1)), 2),
        lambda: replace_some(select(jnp.zeros((2, 5)), 2), jnp.zeros(3), 0.5),
        lambda: put_first(jnp.zeros((1, 1, 8)), jnp.zeros((2, 5, 4))),
    ],
)
def test_a_wrong_shape_or_dtype_is_refused(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_a_right_one_is_not():
    patches = TOKENIZER(np.zeros((2, 8, 8, 1), np.uint8))
    assert (TOKENIZER(np.zeros((2, 8, 8, 1), np.float32)) == patches).all()
    assert gather(patches, jnp.zeros((2, 3), jnp.int32)).shape == (2, 3, 16)
    assert split(patches, 2).shape == (2, 1, 4, 16)
