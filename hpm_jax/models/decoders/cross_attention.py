"""CrossMAE's decoder: hidden patches attend to visible ones, and not to each other."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.models.block_flops import cross_flops
from hpm_jax.models.cross_attention import CrossStack
from hpm_jax.models.decoders.decoder import Body, Decoder, DecoderContext, Sizes
from hpm_jax.models.decoders.self_attention import mask_token_init
from hpm_jax.models.encoder import patch_positions
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray, Grid

BLOCKS = ("last", "all")


class Queries(nn.Module):
    """A mask token with a position for each patch to predict."""

    grid: Grid
    width: int
    dtype: Any = jnp.float32
    layout: Layout = LAYOUTS["mae"]

    @nn.compact
    def __call__(self, images: int, asked: Int[AnyArray, "B Q"] | None) -> Float[Array, "B Q W"]:
        """Returns `[B, Q, width]`; without indices, of all patches of as many images."""
        mask_token = self.param("mask_token", mask_token_init(self.layout), (1, 1, self.width))
        positions = patch_positions(self, self.layout.decoder_positions, self.width, self.grid)
        places = jnp.broadcast_to(positions, (images, *positions.shape))
        if asked is not None:
            places = positions[asked]
        return (mask_token + places).astype(self.dtype)


@register("cross_attention")
class CrossAttention(Decoder):
    """Mask tokens attend to the encoder's output, and not to each other (CrossMAE, Fu et al. 2024).

    Each hidden patch is predicted independently of the others, so a share of them is enough
    (section 3.3: the prediction ratio; CAPI uses 5 % of the hidden patches). Keys and values are
    projected straight from the encoder's width. With `blocks="all"` each block of the decoder has
    learned weights over the input and all blocks of the encoder, in place of its normalised output
    (section 3.4, inter-block attention; the official `--weight_fm --use_input`).
    """

    share: float = option(
        1.0,
        "fraction of the hidden patches, drawn at random, that is predicted in a training step",
        above=0,
        high=1,
    )
    blocks: str = option(
        "last",
        "what the decoder reads: the output of the encoder, or a learned mix of all its blocks",
        choices=BLOCKS,
    )

    @property
    def architecture(self) -> "CrossAttention":
        """The same without the share."""
        return dataclasses.replace(self, share=1.0)

    def check(self, config: Any) -> None:
        """Checks that a ranking has two patches or tubes to compare."""
        ranked = any(term.predicts_loss for term in config.terms)
        if ranked and config.queried_units < 2:
            raise ConfigError(
                f"config.decoder = {str(self)!r} predicts {config.queried_units} of "
                f"{config.hidden_units} hidden patches, and a ranking needs two: raise share, or "
                "set --config.losses='()'."
            )

    def collect(self, depth: int) -> tuple[int, ...]:
        """Returns the input (-1) and all blocks, or nothing."""
        return tuple(range(-1, depth)) if self.blocks == "all" else ()

    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns the module of the queries."""
        return Queries(sizes.grid, sizes.width, sizes.dtype, sizes.layout)

    def tokens(self, entry: Any, context: DecoderContext) -> tuple[Array, Array]:
        """Returns queries `[B, Q, width]`, and the memory `[B, N, D]` or `[depth + 1, B, N, D]`."""
        memory = jnp.stack(context.blocks) if context.blocks else context.tokens
        return entry(context.images, context.asked), memory

    def body(self, sizes: Sizes) -> Body:
        """Returns the blocks."""

        def body(tokens: tuple[Array, Array], count: int) -> Array:
            stack = CrossStack(**sizes.stack, dtype=sizes.dtype, name="transformer")
            return stack(*tokens)

        return body

    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns 0: queries are looked up."""
        return 0.0

    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the blocks, and of the mix."""
        depth, memory = sizes.stack["depth"], seen + sizes.extra
        mix = 2 * depth * len(self.collect(sizes.encoder_depth)) * memory * sizes.encoder_width
        return mix + cross_flops(asked, memory, sizes.width, sizes.encoder_width, depth)

    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns heads x queries x memory."""
        return sizes.stack["heads"] * asked * (seen + sizes.extra)
