"""The masked autoencoder with two heads: one rebuilds hidden patches, one predicts the loss."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.encoder import Encoder, token_init
from hpm_jax.models.layers import Dense, Stack
from hpm_jax.models.positions import sincos_2d
from hpm_jax.tokens import Grid, Mask


class Prediction(NamedTuple):
    """What the student says of the hidden patches, in raster order."""

    features: Array  # [B, 1 + K, D]: the encoder's output, cls first
    values: Array  # [B, M, P] float32: the rebuilt target
    loss: Array | None  # [B, M] float32: the predicted loss; None without a loss predictor


class DecoderInput(nn.Module):
    """The tokens that both heads read: `[cls, visible, hidden]`, each with its position."""

    grid: Grid
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array, mask: Mask | None = None) -> Array:
        """From `[B, 1 + K, D]` to `[B, 1 + L, width]`; without a mask all patches are visible."""
        mask_token = self.param("mask_token", token_init, (1, 1, self.width))
        tokens = Dense(self.width, dtype=self.dtype, name="embedding")(features)
        positions = jnp.asarray(sincos_2d(self.width, self.grid), self.dtype)
        if mask is None:
            return tokens.at[:, 1:].add(positions)
        # attention does not mind the order, so nothing is shuffled back
        visible = tokens[:, 1:] + positions[mask.keep]
        hidden = mask_token.astype(self.dtype) + positions[mask.hide]
        return jnp.concatenate([tokens[:, :1], visible, hidden], axis=1)


class Reconstructor(nn.Module):
    """Rebuilds the target values of the last `count` tokens."""

    values: int
    stack: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, count: int) -> Array:
        tokens = Stack(**self.stack, dtype=self.dtype, name="transformer")(tokens)
        head = Dense(self.values, dtype=self.dtype, name="head")
        return head(tokens[:, -count:]).astype(jnp.float32)


class LossPredictor(nn.Module):
    """Predicts the reconstruction loss of the last `count` tokens, one number a patch.

    The official head maps to all values of a patch and then averages them. The mean of a linear
    map is the linear map of the means, so only that is computed; the full kernel stays the
    parameter, because its initial scale and AdamW's share of it are part of the method.
    """

    values: int
    stack: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, count: int) -> Array:
        tokens = Stack(**self.stack, dtype=self.dtype, name="transformer")(tokens)
        tokens = tokens[:, -count:].astype(jnp.float32)
        shape = (tokens.shape[-1], self.values)
        kernel = self.param("head_kernel", nn.initializers.xavier_uniform(), shape)
        bias = self.param("head_bias", nn.initializers.zeros, (self.values,))
        return tokens @ kernel.mean(axis=1) + bias.mean()


class MaskedAutoencoder(nn.Module):
    """Encoder, reconstructor and loss predictor of Hard Patches Mining.

    The input is patches `[B, L, P]` (see `patchify`), normalised, float32. `apply` with
    `method="encode"` or `"predict_loss"` runs one part; the plain call runs the student.

    Attributes:
        grid: the grid of patches, `(t, h, w)`.
        values: what a hidden patch becomes has this many values (for pixels, `P`).
        width, depth, heads: the encoder.
        decoder_width, decoder_depth, decoder_heads: each head.
        loss_predictor: whether there is one; plain MAE has none.
        dtype: of matrix products and of activations; parameters and outputs are float32.
        remat: a name in `REMAT_POLICIES`.
        unroll: blocks unrolled in each scanned stack; 0 unrolls all.
    """

    grid: Grid
    values: int
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    loss_predictor: bool = True
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1

    def setup(self):
        def stack(depth, heads):
            unroll = self.unroll or depth
            return {"depth": depth, "heads": heads, "remat": self.remat, "unroll": unroll}

        decoder = stack(self.decoder_depth, self.decoder_heads)
        self.encoder = Encoder(self.grid, self.width, stack(self.depth, self.heads), self.dtype)
        self.decoder_input = DecoderInput(self.grid, self.decoder_width, self.dtype)
        self.reconstructor = Reconstructor(self.values, decoder, self.dtype)
        if self.loss_predictor:
            self.predictor = LossPredictor(self.values, decoder, self.dtype)

    def __call__(self, patches: Array, mask: Mask) -> Prediction:
        """The student: encodes what is kept, rebuilds what is hidden, predicts its own loss."""
        features = self.encoder(patches, mask.keep)
        tokens = self.decoder_input(features, mask)
        count = mask.hide.shape[1]
        loss = self.predictor(tokens, count) if self.loss_predictor else None
        return Prediction(features, self.reconstructor(tokens, count), loss)

    def encode(self, patches: Array) -> Array:
        """Features of the whole image, `[B, 1 + L, D]`, cls first."""
        return self.encoder(patches)

    def predict_loss(self, patches: Array) -> Array:
        """The teacher: the loss it expects at every patch of the whole image, `[B, L]`."""
        return self.predictor(self.decoder_input(self.encoder(patches)), patches.shape[1])
