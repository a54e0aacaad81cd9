"""The vision transformer encoder, which encodes all patches or only the visible ones."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from hpm_jax.models.layers import Dense, layer_norm, pytorch_init
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.positions import CONSTANT, sincos_2d
from hpm_jax.models.relative import Relative
from hpm_jax.models.rotary import rotary_angles, rotation_of
from hpm_jax.models.stack import Outputs, Stack
from hpm_jax.tokens import AnyArray, Grid, gather

token_init = nn.initializers.normal(0.02)


def stack_options(model: Any, depth: int, heads: int) -> dict[str, Any]:
    """Returns the arguments of a `Stack` of a model, which has the other ones as attributes."""
    return {
        "depth": depth,
        "heads": heads,
        "remat": model.remat,
        "unroll": model.unroll or depth,
        "attention": model.attention,
        "gather": model.gather,
    }


class PatchEmbedding(nn.Module):
    """A linear map from a patch to a token, initialised as MAE's or as PyTorch's convolution."""

    width: int
    dtype: Any = jnp.float32
    pytorch_init: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, patches: Float[AnyArray, "B L P"]) -> Float[Array, "B L D"]:
        bound = patches.shape[-1] ** -0.5

        def bias_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        start: dict[str, Any] = {"kernel_init": pytorch_init} if self.pytorch_init else {}
        dense = Dense(
            self.width,
            self.bias,
            dtype=self.dtype,
            bias_init=bias_init,
            name="projection",
            **start,
        )
        return dense(patches)


def patch_positions(
    module: nn.Module, kind: str, width: int, grid: Grid
) -> Float[Array, "L width"]:
    """Returns positions of all patches `[L, width]`: a constant, or the sum of two parameters.

    "separable" learns one position per place and one per time (mae_st); they become parameters of
    `module`.
    """
    if kind in CONSTANT:
        return jnp.asarray(CONSTANT[kind](width, grid))
    frames, height, columns = grid
    time = module.param("positions_time", token_init, (frames, 1, width))
    space = module.param("positions_space", token_init, (1, height * columns, width))
    return (time + space).reshape(-1, width)


class Encoder(nn.Module):
    """A vision transformer that encodes a subset of the patches.

    Attributes:
        layout: with the options of the encoder, see `EncoderVariant`.
        positions: positions of the layout; or "learned": a parameter `[1, 1 + L, D]`, cls first if
            there is one, initialised with MAE's constants; or "none".
        relative: whether each block learns a bias of attention for the offset of two patches of an
            image (BEiT), from zeros. Such an encoder reads whole images alone.
    """

    grid: Grid
    width: int
    stack: Mapping[str, Any]
    dtype: Any = jnp.float32
    layout: Layout = LAYOUTS["mae"]
    positions: str = "sincos"
    relative: bool = False

    def __call__(
        self,
        patches: Float[AnyArray, "B L P"],
        keep: Int[AnyArray, "B K"] | None = None,
        drop: Float[AnyArray, "B depth 2"] | None = None,
        replaced: tuple[Bool[AnyArray, "B K"], Float[AnyArray, "1 1 D"]] | None = None,
    ) -> Float[Array, "B N D"]:
        """Encodes patches `[B, L, P]`, all or those at `keep [B, K]`, to `[B, 1 + K, D]`.

        A layout without a cls token returns `[B, K, D]`, one with registers `[B, 1 + registers + K,
        D]`: cls token, registers, patches. `drop` `[B, depth, 2]` is from
        `drop_paths`. `replaced` has a bool `[B, K]`, the kept patches to replace, and the token
        `[1, 1, D]` that replaces them.
        """
        return self.outputs(patches, keep, drop, replaced=replaced).tokens

    @nn.compact
    def outputs(
        self,
        patches: Float[AnyArray, "B L P"],
        keep: Int[AnyArray, "B K"] | None = None,
        drop: Float[AnyArray, "B depth 2"] | None = None,
        collect: tuple[int, ...] = (),
        attention: bool = False,
        replaced: tuple[Bool[AnyArray, "B K"], Float[AnyArray, "1 1 D"]] | None = None,
        related: tuple[int, ...] = (),
    ) -> Outputs:
        """Returns the tokens and intermediate outputs, at no extra cost if none are requested.

        Args:
            collect: indices of blocks, from 0, whose outputs are returned, `[B, 1 + K, D]` each;
                -1, at the front, for the input of block 0.
            attention: whether to return the attention of the cls token in the last block,
                `[B, heads, 1 + K]`; that of the mean query without a cls token. Softmax is over all
                tokens, including the cls token itself.
            replaced: see the plain call.
            related: indices of blocks, from 0, whose query, key and value are returned,
                `[B, heads, 1 + K, D / heads]` each.
        """
        layout, cls_token, table = self.layout, None, None
        if layout.cls_token:
            cls_token = self.param("cls_token", token_init, (1, 1, self.width))
        if self.positions == "learned":
            start, first = sincos_2d(self.width, self.grid), layout.decoder_tokens
            shape = (1, first + len(start), self.width)
            learned = self.param("positions", _after_cls(start, first), shape)[0]
            table = learned[first:]
            if cls_token is not None:
                cls_token = cls_token + learned[:1]
        elif self.positions != "none":
            table = patch_positions(self, self.positions, self.width, self.grid)
        positions = None if table is None else table.astype(self.dtype)
        if keep is not None:
            # hidden patches are not embedded
            patches = gather(patches, keep)
            positions = None if positions is None else positions[keep]
        embedding = PatchEmbedding(
            self.width,
            self.dtype,
            layout.pytorch_init,
            layout.patch_bias,
            name="patch_embedding",
        )
        tokens = embedding(patches)
        if replaced is not None:
            where, token = replaced
            tokens = jnp.where(where[..., None], token.astype(tokens.dtype), tokens)
        if positions is not None:
            tokens = tokens + positions
        if layout.registers:
            shape = (1, layout.registers, self.width)
            tokens = put_first(self.param("registers", token_init, shape), tokens)
        if cls_token is not None:
            tokens = put_first(cls_token, tokens)
        if layout.pre_norm:
            tokens = layer_norm(self.dtype, "pre_norm", layout.norm_eps)(tokens)
        rotation = None
        if layout.rotary_base:
            head = self.width // self.stack["heads"]
            angles = rotary_angles(head, self.grid, layout.rotary_base)
            rotation = rotation_of(angles, layout.extra_tokens, keep)
        relative = Relative(*self.grid[1:], layout.extra_tokens) if self.relative else None
        options = {**self.stack, **self.block_options, "relative": relative}
        stack = Stack(**options, dtype=self.dtype, name="transformer")
        query = "first" if layout.cls_token else "mean"
        asked, given = query if attention else "", collect[:1] == (-1,)
        outputs = stack.outputs(tokens, drop, None, collect[given:], asked, rotation, related)
        return outputs._replace(blocks=(tokens, *outputs.blocks)) if given else outputs

    @property
    def block_options(self) -> dict[str, Any]:
        """The options of the layout that are those of every block."""
        names = ("key_bias", "mlp", "mlp_width", "layer_scale", "norm_eps", "qk_norm")
        return {name: getattr(self.layout, name) for name in names}


def put_first(
    first: Float[AnyArray, "1 R D"], tokens: Float[AnyArray, "B N D"]
) -> Float[Array, "B _ D"]:
    """Prepends `[1, R, D]` to every row of `[B, N, D]`: `[B, R + N, D]`."""
    shape = (len(tokens), first.shape[1], tokens.shape[-1])
    return jnp.concatenate([jnp.broadcast_to(first, shape).astype(tokens.dtype), tokens], axis=1)


def _after_cls(table, first):
    """Initialises positions with the constants, after `first` rows of zeros for the cls token."""
    return lambda key, shape: jnp.pad(jnp.asarray(table), ((first, 0), (0, 0)))[None]
