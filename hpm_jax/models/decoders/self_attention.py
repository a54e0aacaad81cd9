"""MAE's decoder: self-attention over visible patches and mask tokens."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.models.block_flops import transformer_flops
from hpm_jax.models.decoders.decoder import Body, Decoder, DecoderContext, Sizes
from hpm_jax.models.encoder import patch_positions, put_first, token_init
from hpm_jax.models.layers import Dense, layer_norm, pytorch_init
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.stack import Stack, as_they_are
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray, Grid


class DecoderInput(nn.Module):
    """The input tokens of both heads: `[cls, visible, hidden]`, each with its position.

    Attributes:
        norm: whether there is a layer norm before the linear map, for blocks that have none.
    """

    grid: Grid
    width: int
    dtype: Any = jnp.float32
    layout: Layout = LAYOUTS["mae"]
    norm: bool = False

    @nn.compact
    def __call__(
        self,
        features: Float[AnyArray, "B N D"],
        keep: Int[AnyArray, "B K"] | None = None,
        hide: Int[AnyArray, "B M"] | None = None,
        moved: Callable[[Array], Array] = as_they_are,
    ) -> Float[Array, "B tokens width"]:
        """Maps `[B, 1 + K, D]` to `[B, 1 + K + M, width]`, without the 1 if there is no cls token.

        Register tokens of the encoder, between cls token and patches, are left out.

        Args:
            keep: `[B, K]` indices of the visible patches; None if all are visible, in order.
            hide: `[B, M]` indices of the mask tokens; None for none.
            moved: from the positions of the mask tokens, `[B, M, width]`, to those that they get.
        """
        layout = self.layout
        mask_token = self.param("mask_token", mask_token_init(layout), (1, 1, self.width))
        start: dict[str, Any] = {"kernel_init": pytorch_init} if layout.pytorch_init else {}
        if layout.registers:
            first = layout.decoder_tokens
            parts = [features[:, :first], features[:, first + layout.registers :]]
            features = jnp.concatenate(parts, axis=1)
        if layout.decoder_cls_token:
            features = features[:, 1:]
        embedding = Dense(
            self.width, layout.decoder_bias, dtype=self.dtype, name="embedding", **start
        )
        if self.norm:
            features = layer_norm(self.dtype, "norm")(features)
        tokens = embedding(features)
        if layout.decoder_cls_token:
            cls_token = self.param("cls_token", token_init, (1, 1, self.width))
            tokens = put_first(cls_token, tokens)
        positions = patch_positions(self, layout.decoder_positions, self.width, self.grid)
        positions = positions.astype(self.dtype)
        extra = layout.decoder_tokens
        # attention is permutation-equivariant, so the order is not restored
        tokens = tokens.at[:, extra:].add(positions if keep is None else positions[keep])
        if hide is None:
            return tokens
        hidden = mask_token.astype(self.dtype) + moved(positions[hide])
        return jnp.concatenate([tokens, hidden], axis=1)


def mask_token_init(layout: Layout):
    """Returns the initialiser of the mask token; VideoMAE truncates at one standard deviation."""
    if not layout.pytorch_init:
        return token_init
    return lambda key, shape: 0.02 * jax.random.truncated_normal(key, -1.0, 1.0, shape)


@register("self_attention")
class SelfAttention(Decoder):
    """Self-attention over visible patches and a mask token for each hidden one (MAE; HPM).

    Section 3 of He et al. 2021, "MAE decoder". A linear map leads from the encoder's width to that
    of the decoder.
    """

    block: int = option(
        -1,
        "the encoder's block that is read, from 1, or from the end; -1 for the last, after its "
        "norm, any other after a norm of the decoder",
        low=-(10**4),
        high=10**4,
    )

    def check(self, config: Any) -> None:
        """The block has to be there."""
        depth = config.model.depth
        if not 1 <= (self.block if self.block > 0 else depth + 1 + self.block) <= depth:
            raise ConfigError(
                f"config.decoder = {str(self)!r}: the encoder has {depth} blocks "
                f"(config.model.depth), so block is from 1 to {depth}, or from -{depth} to -1"
            )

    def collect(self, depth: int) -> tuple[int, ...]:
        """Returns the block, or nothing for the encoder's output."""
        if self.block == -1:
            return ()
        return (self.block - 1 if self.block > 0 else depth + self.block,)

    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns the module of `[cls, visible, hidden]`."""
        norm = self.block != -1
        return DecoderInput(sizes.grid, sizes.width, sizes.dtype, sizes.layout, norm)

    def tokens(self, entry: Any, context: DecoderContext) -> Array:
        """Returns all tokens `[B, 1 + K + M, width]`, those asked for last."""
        features = context.blocks[0] if context.blocks else context.tokens
        return entry(features, context.keep, context.hide)

    def body(self, sizes: Sizes) -> Body:
        """Returns the blocks; the last computes the tokens asked for alone."""

        def body(tokens: Array, count: int) -> Array:
            stack = Stack(**sizes.stack, dtype=sizes.dtype, name="transformer")
            return stack(tokens, read=count)

        return body

    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the linear map."""
        return 2 * (seen + sizes.layout.decoder_tokens) * sizes.encoder_width * sizes.width

    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the blocks, on all tokens."""
        tokens = sizes.length + sizes.layout.decoder_tokens
        return transformer_flops(tokens, sizes.width, sizes.stack["depth"], asked)

    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns heads x tokens x tokens."""
        return sizes.stack["heads"] * (sizes.length + sizes.layout.decoder_tokens) ** 2
