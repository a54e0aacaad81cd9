"""The vision transformer that encodes the patches it is given."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.layers import Dense, Outputs, Stack, pytorch_init
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.positions import CONSTANT, sincos_2d
from hpm_jax.tokens import Grid, gather

token_init = nn.initializers.normal(0.02)


class PatchEmbedding(nn.Module):
    """A linear map from a patch to a token, initialised as MAE's or as PyTorch's convolution."""

    width: int
    dtype: Any = jnp.float32
    pytorch_init: bool = False

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        bound = patches.shape[-1] ** -0.5

        def bias_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        start: dict[str, Any] = {"kernel_init": pytorch_init} if self.pytorch_init else {}
        dense = Dense(self.width, dtype=self.dtype, bias_init=bias_init, name="projection", **start)
        return dense(patches)


def patch_positions(module: nn.Module, kind: str, width: int, grid: Grid) -> Array:
    """Positions of all patches `[L, width]`: a constant, or the sum of two learned parameters.

    "separable" learns one position for each place and one for each time (mae_st); they become
    parameters of `module`.
    """
    if kind in CONSTANT:
        return jnp.asarray(CONSTANT[kind](width, grid))
    frames, height, columns = grid
    time = module.param("positions_time", token_init, (frames, 1, width))
    space = module.param("positions_space", token_init, (1, height * columns, width))
    return (time + space).reshape(-1, width)


class Encoder(nn.Module):
    """A vision transformer that sees only the patches it is given.

    Attributes:
        positions: of the layout, or "learned": then they are a parameter `[1, 1 + L, D]`, cls
            first, that starts as MAE's constants.
    """

    grid: Grid
    width: int
    stack: dict[str, Any]
    dtype: Any = jnp.float32
    layout: Layout = LAYOUTS["mae"]
    positions: str = "sincos"

    def __call__(
        self,
        patches: Array,
        keep: Array | None = None,
        drop: Array | None = None,
        replaced: tuple[Array, Array] | None = None,
    ) -> Array:
        """Encodes patches `[B, L, P]`, all or those at `keep [B, K]`, to `[B, 1 + K, D]`.

        A layout without a cls token gives `[B, K, D]`. `drop` `[B, depth, 2]` is from
        `drop_paths`. `replaced` is which of the kept patches, `[B, K]` bool, a token
        `[1, 1, D]` stands for.
        """
        return self.outputs(patches, keep, drop, replaced=replaced).tokens

    @nn.compact
    def outputs(
        self,
        patches: Array,
        keep: Array | None = None,
        drop: Array | None = None,
        collect: tuple[int, ...] = (),
        attention: bool = False,
        replaced: tuple[Array, Array] | None = None,
    ) -> Outputs:
        """The same with what the blocks computed on the way; costs nothing where none is asked for.

        Args:
            collect: numbers of blocks, from 0, whose outputs are returned, `[B, 1 + K, D]` each.
            attention: whether that of the cls token in the last block is returned, `[B, K]`; of
                the mean query where there is no cls token. Softmax is over all tokens, so what the
                cls token has for itself is missing from the sum.
            replaced: see the plain call.
        """
        layout, cls_token = self.layout, None
        if layout.cls_token:
            cls_token = self.param("cls_token", token_init, (1, 1, self.width))
        if self.positions == "learned":
            start = sincos_2d(self.width, self.grid)
            learned = self.param("positions", _after_cls(start), (1, 1 + len(start), self.width))[0]
            cls_token, table = cls_token + learned[:1], learned[1:]
        else:
            table = patch_positions(self, self.positions, self.width, self.grid)
        positions = table.astype(self.dtype)
        if keep is not None:
            # hidden patches are never embedded
            patches, positions = gather(patches, keep), positions[keep]
        embedding = PatchEmbedding(
            self.width, self.dtype, layout.pytorch_init, name="patch_embedding"
        )
        tokens = embedding(patches)
        if replaced is not None:
            where, token = replaced
            tokens = jnp.where(where[..., None], token.astype(tokens.dtype), tokens)
        tokens = tokens + positions
        if cls_token is not None:
            tokens = put_first(cls_token, tokens)
        stack = Stack(**self.stack, dtype=self.dtype, key_bias=layout.key_bias, name="transformer")
        query = "first" if layout.cls_token else "mean"
        outputs = stack.outputs(tokens, drop, None, collect, query if attention else "")
        if outputs.attention is None:
            return outputs
        return outputs._replace(attention=outputs.attention[:, layout.extra_tokens :])


def put_first(token: Array, tokens: Array) -> Array:
    """`[1, 1, D]` before `[B, N, D]`, in every row: `[B, 1 + N, D]`."""
    token = jnp.broadcast_to(token, (len(tokens), 1, tokens.shape[-1])).astype(tokens.dtype)
    return jnp.concatenate([token, tokens], axis=1)


def _after_cls(table):
    """Positions start as the constants, after a row of zeros for the cls token."""
    return lambda key, shape: jnp.pad(jnp.asarray(table), ((1, 0), (0, 0)))[None]
