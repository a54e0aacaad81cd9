"""DiffMAE's decoder: hidden patches are rebuilt from their noised selves and visible patches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.errors import ConfigError
from hpm_jax.models.block_flops import cross_flops
from hpm_jax.models.cross_attention import CrossStack
from hpm_jax.models.decoders.decoder import Body, Decoder, DecoderContext, Sizes
from hpm_jax.models.encoder import patch_positions
from hpm_jax.models.layers import Dense
from hpm_jax.models.mlp import gelu
from hpm_jax.models.noise import STEPS, Noise, draw_noise, noised
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray, Mask, gather


class NoisedPatches(nn.Module):
    """Embeds noised patches, with their positions and the step of the noise."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self,
        patches: Float[AnyArray, "B Q P"],
        step: Int[AnyArray, " B"],
        asked: Int[AnyArray, "B Q"] | None,
    ) -> Float[Array, "B Q W"]:
        """Maps patches `[B, Q, P]` to tokens of the decoder's width."""
        sizes, width, dtype = self.sizes, self.sizes.width, self.sizes.dtype
        tokens = Dense(width, dtype=dtype, name="embedding")(patches)
        positions = patch_positions(self, sizes.layout.decoder_positions, width, sizes.grid)
        tokens = tokens + (positions if asked is None else positions[asked]).astype(dtype)
        time = gelu(Dense(width, dtype=dtype, name="time_in")(waves(step, width)))
        return tokens + Dense(width, dtype=dtype, name="time_out")(time)[:, None]


def waves(step: Int[AnyArray, " B"], width: int) -> Float[Array, "B W"]:
    """Returns sines and cosines of steps, of `width` / 2 frequencies from 1 down to 1e-4."""
    frequencies = 1e4 ** -np.linspace(0.0, 1.0, width // 2, endpoint=False)
    angles = step[:, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


@register("diffusion")
class Diffusion(Decoder):
    """Rebuilds hidden patches from noised ones instead of mask tokens (DiffMAE, Wei et al. 2023).

    In training, hidden patches get the noise of a step that is drawn for each image from 1 to 1000
    (`hpm_jax/models/noise.py`). Each block of the decoder has self-attention among them, attention
    to visible patches, and an MLP (section 3.3, cross-self); block i reads the output of the
    encoder's block i from the end, after a norm. It predicts the target itself, not the noise.
    Evaluations, pictures and the teacher have noise alone, the same for every image, so nothing of
    hidden patches is seen there.
    """

    def check(self, config: Any) -> None:
        """There has to be a block of the encoder for each of the decoder."""
        depth, there = config.model.decoder_depth, config.model.depth
        if depth > there:
            raise ConfigError(
                f"config.decoder = {str(self)!r} reads a block of the encoder in each of its own, "
                f"and config.model.decoder_depth = {depth} is above config.model.depth = {there}"
            )

    def draw(self, key: Array, mask: Mask) -> Noise:
        """Returns the step of each image and the seed of its noise."""
        step_key, seed_key = jax.random.split(key)
        count = mask.hide.shape[0]
        return draw_noise(seed_key, jax.random.randint(step_key, (count,), 1, STEPS + 1, jnp.int32))

    def collect(self, depth: int) -> tuple[int, ...]:
        """Returns all blocks."""
        return tuple(range(depth))

    def entry(self, sizes: Sizes) -> nn.Module:
        """Returns the module that embeds noised patches."""
        return NoisedPatches(sizes)

    def tokens(self, entry: Any, context: DecoderContext) -> tuple[Array, Array]:
        """Returns queries `[B, Q, width]`, and the memory `[depth, B, N, D]`."""
        sizes, asked, images = entry.sizes, context.asked, context.images
        if context.drawn is None:
            noise = jax.random.normal(jax.random.key(0), (sizes.length, sizes.values))
            every = jnp.broadcast_to(noise, (images, *noise.shape))
            patches = every if asked is None else noise[asked]
            step = jnp.full(images, STEPS, jnp.int32)
        else:
            assert context.patches is not None and asked is not None  # the student's pass
            patches = noised(gather(context.patches, asked), context.drawn)
            step = context.drawn.step
        return entry(patches, step, asked), jnp.stack(context.blocks)

    def body(self, sizes: Sizes) -> Body:
        """Returns the blocks."""

        def body(tokens: tuple[Array, Array], count: int) -> Array:
            each = sizes.encoder_depth - 1 - jnp.arange(sizes.stack["depth"], dtype=jnp.int32)
            stack = CrossStack(**sizes.stack, dtype=sizes.dtype, among=True, name="transformer")
            return stack(*tokens, each)

        return body

    def entry_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the embeddings of patches and of the step."""
        return 2 * sizes.width * (asked * sizes.values + 2 * sizes.width)

    def body_flops(self, sizes: Sizes, seen: int, asked: int) -> float:
        """Returns the operations of the blocks."""
        depth, width, memory = sizes.stack["depth"], sizes.width, seen + sizes.extra
        among = 2 * depth * (4 * asked * width**2 + 2 * asked**2 * width)
        return among + cross_flops(asked, memory, width, sizes.encoder_width, depth)

    def attention_pairs(self, sizes: Sizes, seen: int, asked: int) -> int:
        """Returns heads x queries x queries or memory, whichever are more."""
        return sizes.stack["heads"] * asked * max(asked, seen + sizes.extra)
