"""Gradients of several scales, each predicted from a block of the encoder of its own."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.models.block_flops import transformer_flops
from hpm_jax.models.decoders import Sizes
from hpm_jax.models.decoders.self_attention import DecoderInput
from hpm_jax.models.layers import Dense, layer_norm
from hpm_jax.models.mlp import gelu
from hpm_jax.models.stack import Stack
from hpm_jax.plugs import Setting, register
from hpm_jax.random import stream
from hpm_jax.targets.hog import histograms
from hpm_jax.tokens import AnyArray, Mask, Tokenizer, unpatchify


class ScaleDecoder(nn.Module):
    """MAE's decoder, and a head that predicts one or several cells of each patch.

    Attributes:
        sizes: of the decoder.
        values: number of values of a cell.
        doublings: how often the head doubles rows and columns: `2 ** doublings` cells a side.
        read: number of patches that are predicted, those that come last.
        norm: whether there is a layer norm before the decoder.
    """

    sizes: Sizes
    values: int
    doublings: int
    read: int
    norm: bool

    @nn.compact
    def __call__(
        self, features: Float[AnyArray, "B N D"], mask: Mask
    ) -> Float[Array, "B read rows columns values"]:
        """Maps features of visible patches `[B, 1 + K, D]` to the cells of patches."""
        sizes, dtype = self.sizes, self.sizes.dtype
        entry = DecoderInput(sizes.grid, sizes.width, dtype, sizes.layout, self.norm, name="input")
        tokens = entry(features, mask.keep, mask.hide)
        x = Stack(**sizes.stack, dtype=dtype, name="transformer")(tokens, read=self.read)
        x = x[:, :, None, None]
        for number in range(self.doublings):
            if number:
                x = gelu(layer_norm(dtype, f"norm_{number}")(x))
            # a transposed convolution of 2 x 2 with stride 2
            batch, count, rows, columns, width = x.shape
            half = width // 2
            x = Dense(4 * half, dtype=dtype, name=f"double_{number}")(x)
            x = x.reshape(batch, count, rows, columns, 2, 2, half).transpose(0, 1, 2, 4, 3, 5, 6)
            x = x.reshape(batch, count, 2 * rows, 2 * columns, half)
        return Dense(self.values, dtype=dtype, name="head")(x).astype(jnp.float32)


@register("multi_scale")
class MultiScale(Term):
    """Gradients of several scales from several blocks of the encoder (LocalMIM, Wang et al. 2023).

    From each block a decoder of its own, of the sizes of the run's, predicts histograms of oriented
    gradients of hidden patches, in cells of `cells` pixels: small ones from early blocks, large
    ones from late blocks. Of a cell larger than a patch the prediction is the mean over its
    patches, and its loss counts by the share that is hidden. Blocks but the last have a norm of
    their own. LocalMIM has blocks 2, 4, 10 and 12 of 12, with cells of 4, 8, 16 and 32 pixels; that
    of 16, the size of a patch, is `self_attention(block=10)` with the target
    `hog(cell=16, window=0)`, so that the loss predictor can learn from it.
    """

    blocks: tuple[int, ...] = option(
        (2, 4, 12), "the encoder's blocks, from 1, in rising order", low=1, high=10**4
    )
    cells: tuple[int, ...] = option(
        (4, 8, 32),
        "rows and columns of pixels of a cell for each block: the patch size, halved or doubled",
        low=1,
        high=1024,
    )
    bins: int = positive(9, "number of orientation bins from 0 to 180 degrees", high=360)

    @property
    def student_blocks(self) -> tuple[int, ...]:  # type: ignore[override]
        """The blocks."""
        return self.blocks

    def check(self, config: Any) -> None:
        """There has to be a cell for each block, and cells have to fill the image."""
        name, depth = f"config.losses has {str(self)!r}", config.model.depth
        patch, (_, rows, columns) = config.model.patch_size, config.grid
        if len(self.blocks) != len(self.cells) or not self.blocks:
            raise ConfigError(
                f"{name}: {len(self.blocks)} blocks and {len(self.cells)} cells: expected one cell "
                "for each block"
            )
        if list(self.blocks) != sorted(set(self.blocks)) or self.blocks[-1] > depth:
            raise ConfigError(
                f"{name}: expected blocks in rising order up to config.model.depth = {depth}"
            )
        for cell in self.cells:
            larger, smaller = divmod(cell, patch), divmod(patch, cell)
            powers = {2**n for n in range(11)}
            fits = (larger[1] == 0 and larger[0] in powers) or (
                smaller[1] == 0 and smaller[0] in powers
            )
            if not fits:
                raise ConfigError(
                    f"{name}: cells of {cell} pixels: expected config.model.patch_size = {patch}, "
                    "halved or doubled, once or several times"
                )
            if cell > patch and (rows % larger[0] or columns % larger[0]):
                raise ConfigError(
                    f"{name}: cells of {cell} pixels do not fill the grid of {rows} x {columns} "
                    f"patches of {patch} pixels: leave them out, or choose another image size"
                )
            if cell < patch and config.model.decoder_width % smaller[0]:
                raise ConfigError(
                    f"{name}: the head of cells of {cell} pixels halves config.model.decoder_width "
                    f"= {config.model.decoder_width}, which has to be a multiple of {smaller[0]}"
                )
        if config.decoder.share < 1:
            raise ConfigError(
                f"{name}, whose decoders read every patch, and config.decoder = "
                f"{str(config.decoder)!r} leaves some out: share=1.0"
            )

    def _decoder(
        self, number: int, tokenizer: Tokenizer, sizes: Sizes, visible: int, hidden: int
    ) -> ScaleDecoder:
        """Returns the decoder of a block, for so many visible and hidden patches."""
        cell, patch = self.cells[number], tokenizer.patch_size[1]
        return ScaleDecoder(
            sizes=sizes,
            values=self.bins * tokenizer.channels,
            doublings=max(patch // cell, 1).bit_length() - 1,
            read=hidden if cell <= patch else visible + hidden,
            norm=self.blocks[number] != sizes.encoder_depth,
        )

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the decoders, by block."""
        sizes, tokenizer = setting.sizes, setting.tokenizer
        counts = sizes.length - setting.hidden, setting.hidden
        patches = jnp.arange(sizes.length, dtype=jnp.int32)[None]
        mask = Mask(patches[:, setting.hidden :], patches[:, : setting.hidden])
        features = jnp.zeros((1, mask.keep.shape[1] + sizes.extra, sizes.encoder_width))
        return {
            f"block_{block}": self._decoder(number, tokenizer, sizes, *counts).init(
                stream(key, "block", block), features, mask
            )["params"]
            for number, block in enumerate(self.blocks)
        }

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the sum over the scales, and the loss of each."""
        mask, sizes = outputs.mask, outputs.sizes
        counts, images = (mask.keep.shape[1], mask.hide.shape[1]), _frames(outputs)
        found = {}
        for number, (block, cell) in enumerate(zip(self.blocks, self.cells, strict=True)):
            decoder = self._decoder(number, outputs.tokenizer, sizes, *counts)
            features = outputs.blocks[block] if decoder.norm else outputs.features
            params = {"params": outputs.own.params[f"block_{block}"]}
            predicted: Any = decoder.apply(params, features, mask)
            target = histograms(images, self.bins, cell, 0)
            target = target.reshape(*target.shape[:3], -1)
            found[f"multi_scale_{cell}"] = scale_loss(predicted, target, mask, sizes.grid)
        return jnp.stack(list(found.values())).sum(), found

    def step_flops(self, setting: Setting) -> float:
        """Returns the operations of the decoders, forward and backward."""
        sizes, hidden = setting.sizes, setting.hidden
        counts = sizes.length - hidden, hidden
        extra, total = sizes.layout.decoder_tokens, 0.0
        for number in range(len(self.blocks)):
            decoder = self._decoder(number, setting.tokenizer, sizes, *counts)
            entry = 2 * (counts[0] + extra) * sizes.encoder_width * sizes.width
            tokens, depth = sizes.length + extra, sizes.stack["depth"]
            body = transformer_flops(tokens, sizes.width, depth, decoder.read)
            width, cells, head = sizes.width, decoder.read, 0.0
            for _ in range(decoder.doublings):
                head += 2 * cells * width * 4 * (width // 2)
                width, cells = width // 2, 4 * cells
            total += entry + body + head + 2 * cells * width * decoder.values
        return 3 * total


def _frames(outputs: Outputs) -> Float[Array, "N H W C"]:
    """Returns normalised images, of clips the middle frame of each patch, as one batch."""
    patch = outputs.tokenizer.patch_size
    pixels = unpatchify(outputs.patches, outputs.unit.grid, patch)
    pixels = pixels[:, patch[0] // 2 :: patch[0]]
    return pixels.reshape(-1, *pixels.shape[2:])


def scale_loss(
    predicted: Float[AnyArray, "B Q rows columns D"],
    target: Float[AnyArray, "N h w D"],
    mask: Mask,
    grid: tuple[int, int, int],
) -> Float[Array, ""]:
    """Returns the mean squared error over the cells, each by its share of hidden patches.

    Args:
        predicted: the cells of the hidden patches, or, for cells larger than a patch, one value of
            every patch, in the order visible, hidden.
        target: on the grid of cells, of all frames of all images.
        mask: visible and hidden patches.
        grid: of patches, `(t, h, w)`.
    """
    t, h, w = grid
    batch, _, rows, columns, values = predicted.shape
    images = jnp.arange(batch, dtype=jnp.int32)[:, None]
    every = jnp.ones(mask.hide.shape, jnp.float32)
    counted = every if mask.counted is None else mask.counted.astype(jnp.float32)
    side = target.shape[1]
    if side >= h:
        cells = target.reshape(batch, t, h, rows, w, columns, values)
        cells = cells.transpose(0, 1, 2, 4, 3, 5, 6).reshape(batch, t * h * w, rows, columns, -1)
        error = jnp.square(predicted - cells[images, mask.hide]).mean(axis=(2, 3, 4))
        return jnp.sum(error * counted) / jnp.maximum(counted.sum(), 1.0)
    whole = jnp.zeros((batch, t * h * w, values), jnp.float32)
    whole = whole.at[images, mask.keep].set(predicted[:, : mask.keep.shape[1], 0, 0])
    # a patch may be in both, where the mask ratio moves: then its mask token counts
    whole = whole.at[images, mask.hide].set(predicted[:, mask.keep.shape[1] :, 0, 0])
    hidden = jnp.zeros((batch, t * h * w), jnp.float32).at[images, mask.hide].set(counted)
    many = h // side
    split = (batch * t, side, many, w // many, many)
    mean = whole.reshape(*split, values).mean(axis=(2, 4))
    share = hidden.reshape(split).mean(axis=(2, 4))
    error = jnp.square(mean - target).mean(axis=-1)
    return jnp.sum(error * share) / jnp.maximum(share.sum(), 1e-6)
