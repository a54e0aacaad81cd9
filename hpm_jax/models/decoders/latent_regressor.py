"""CAE's regressor and decoder: hidden patches are predicted as the encoder would see them."""

from typing import Any, ClassVar

import flax.linen as nn
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.errors import ConfigError
from hpm_jax.fields import positive
from hpm_jax.models.block_flops import cross_flops, transformer_flops
from hpm_jax.models.cross_attention import CrossStack
from hpm_jax.models.decoders.cross_attention import Queries
from hpm_jax.models.decoders.decoder import Body, Decoder, DecoderContext, Sizes
from hpm_jax.models.encoder import patch_positions
from hpm_jax.models.layers import Dense
from hpm_jax.models.stack import Stack
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray


class Regressor(nn.Module):
    """Mask tokens that attend to the features of visible patches and to each other.

    Attributes:
        sizes: of the model's decoders; the regressor is as wide as the encoder.
        depth: number of blocks.
    """

    sizes: Sizes
    depth: int

    @nn.compact
    def __call__(
        self,
        features: Float[AnyArray, "B K D"],
        keep: Int[AnyArray, "B K"] | None,
        asked: Int[AnyArray, "B Q"] | None,
    ) -> Float[Array, "B Q D"]:
        """Maps features of visible patches `[B, K, D]` to those of the patches asked for."""
        sizes, layout = self.sizes, self.sizes.layout
        width, dtype = sizes.encoder_width, sizes.dtype
        queries = Queries(sizes.grid, width, dtype, layout, name="queries")(len(features), asked)
        positions = patch_positions(self, layout.decoder_positions, width, sizes.grid)
        positions = positions.astype(dtype)
        memory = features.astype(dtype) + (positions if keep is None else positions[keep])
        stack = {**sizes.stack, "depth": self.depth}
        return CrossStack(**stack, dtype=dtype, joined=True, name="transformer")(queries, memory)


@register("latent_regressor")
class LatentRegressor(Decoder):
    """Regressor, and a decoder of what it predicts alone (CAE, Chen et al. 2022).

    In each of the `depth` blocks of the regressor, mask tokens attend to the encoder's output at
    visible patches and to each other; visible patches stay as they are (section 3.1, latent
    contextual regressor). The result, as wide as the encoder, is what the encoder would say of the
    hidden patches; the term `latent_alignment` compares the two. Self-attention among these alone,
    of the run's decoder sizes, predicts the target. One norm serves keys and values, and positions
    are added once, at the start.
    """

    depth: int = positive(4, "number of blocks of the regressor", high=1000)

    latent: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """The heads have to divide the width of the encoder."""
        width, heads = config.model.width, config.model.decoder_heads
        if width % heads:
            raise ConfigError(
                f"config.decoder = {str(self)!r} is as wide as the encoder (config.model.width = "
                f"{width}), and config.model.decoder_heads = {heads} does not divide that: choose "
                "a divisor"
            )

    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns the regressor."""
        return Regressor(sizes, self.depth)

    def tokens(self, entry: Any, context: DecoderContext) -> Float[Array, "B Q D"]:
        """Returns the predicted features of the patches asked for."""
        features = context.tokens[:, entry.sizes.extra :]
        return entry(features, context.keep, context.asked)

    def body(self, sizes: Sizes) -> Body:
        """Returns the linear map to the decoder's width, and the blocks."""

        def body(tokens: Array, count: int) -> Array:
            x = Dense(sizes.width, dtype=sizes.dtype, name="embedding")(tokens)
            return Stack(**sizes.stack, dtype=sizes.dtype, name="transformer")(x)

        return body

    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the regressor."""
        width = sizes.encoder_width
        return cross_flops(asked, seen + asked, width, width, self.depth)

    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the linear map and of the blocks."""
        embedding = 2 * asked * sizes.encoder_width * sizes.width
        return embedding + transformer_flops(asked, sizes.width, sizes.stack["depth"])

    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns heads x queries x memory, which is that of the regressor."""
        return sizes.stack["heads"] * asked * (seen + asked)
