"""The vision transformer that encodes the patches it is given."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.layers import Dense, Stack
from hpm_jax.models.positions import sincos_2d
from hpm_jax.tokens import Grid, gather

token_init = nn.initializers.normal(0.02)


class PatchEmbedding(nn.Module):
    """A linear map from a patch to a token, initialised as PyTorch's convolution is in MAE."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        bound = patches.shape[-1] ** -0.5

        def bias_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return Dense(self.width, dtype=self.dtype, bias_init=bias_init, name="projection")(patches)


class Encoder(nn.Module):
    """A vision transformer that sees only the patches it is given.

    Attributes:
        learned_positions: whether positions are parameters `[1, 1 + L, D]`, cls first, as in
            fine-tuning; else they are constants, and that of the cls token is zero.
    """

    grid: Grid
    width: int
    stack: dict[str, Any]
    dtype: Any = jnp.float32
    learned_positions: bool = False

    @nn.compact
    def __call__(
        self, patches: Array, keep: Array | None = None, drop: Array | None = None
    ) -> Array:
        """Encodes patches `[B, L, P]`, all or those at `keep [B, K]`, to `[B, 1 + K, D]`.

        `drop` `[B, depth, 2]` is from `drop_paths`.
        """
        cls_token = self.param("cls_token", token_init, (1, 1, self.width))
        table = sincos_2d(self.width, self.grid)
        if self.learned_positions:
            shape = (1, 1 + len(table), self.width)
            table = self.param("positions", _after_cls(table), shape)[0]
            cls_token, table = cls_token + table[:1], table[1:]
        positions = jnp.asarray(table, self.dtype)
        if keep is not None:
            # hidden patches are never embedded
            patches, positions = gather(patches, keep), positions[keep]
        tokens = PatchEmbedding(self.width, self.dtype, name="patch_embedding")(patches) + positions
        cls_token = jnp.broadcast_to(cls_token, (len(tokens), 1, self.width)).astype(self.dtype)
        tokens = jnp.concatenate([cls_token, tokens], axis=1)
        return Stack(**self.stack, dtype=self.dtype, name="transformer")(tokens, drop)


def _after_cls(table):
    """Positions start as the constants, after a row of zeros for the cls token."""
    return lambda key, shape: jnp.pad(jnp.asarray(table), ((1, 0), (0, 0)))[None]
