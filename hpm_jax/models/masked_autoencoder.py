"""The masked autoencoder with two heads: one rebuilds hidden patches, one predicts the loss."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.encoder import Encoder, patch_positions, put_first, token_init
from hpm_jax.models.layers import Dense, Gather, Stack, as_they_are, pytorch_init
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.tokens import Grid, Mask


class Prediction(NamedTuple):
    """What the student says of the hidden patches, in raster order."""

    features: Array  # [B, 1 + K, D]: the encoder's output, cls first where there is one
    values: Array  # [B, M, P] float32: the rebuilt target
    loss: Array | None  # [B, M] float32: the predicted loss; None without a loss predictor


class DecoderInput(nn.Module):
    """The tokens that both heads read: `[cls, visible, hidden]`, each with its position."""

    grid: Grid
    width: int
    dtype: Any = jnp.float32
    layout: Layout = LAYOUTS["mae"]

    @nn.compact
    def __call__(
        self, features: Array, keep: Array | None = None, hide: Array | None = None
    ) -> Array:
        """From `[B, 1 + K, D]` to `[B, 1 + K + M, width]`, without the 1 where there is no cls.

        Args:
            keep: `[B, K]` where the visible patches are; None where all are visible, in order.
            hide: `[B, M]` where mask tokens are to stand; None for nowhere.
        """
        layout = self.layout
        mask_token = self.param("mask_token", _mask_token_init(layout), (1, 1, self.width))
        start: dict[str, Any] = {"kernel_init": pytorch_init} if layout.pytorch_init else {}
        if layout.decoder_cls_token:
            features = features[:, 1:]
        embedding = Dense(
            self.width, layout.decoder_bias, dtype=self.dtype, name="embedding", **start
        )
        tokens = embedding(features)
        if layout.decoder_cls_token:
            cls_token = self.param("cls_token", token_init, (1, 1, self.width))
            tokens = put_first(cls_token, tokens)
        positions = patch_positions(self, layout.positions, self.width, self.grid)
        positions = positions.astype(self.dtype)
        extra = layout.extra_tokens
        # attention does not mind the order, so nothing is shuffled back
        tokens = tokens.at[:, extra:].add(positions if keep is None else positions[keep])
        if hide is None:
            return tokens
        return jnp.concatenate([tokens, mask_token.astype(self.dtype) + positions[hide]], axis=1)


def _mask_token_init(layout: Layout):
    """VideoMAE cuts its normal at one deviation."""
    if not layout.pytorch_init:
        return token_init
    return lambda key, shape: 0.02 * jax.random.truncated_normal(key, -1.0, 1.0, shape)


class Reconstructor(nn.Module):
    """Rebuilds the target values of the last `count` tokens."""

    values: int
    stack: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, count: int) -> Array:
        tokens = Stack(**self.stack, dtype=self.dtype, name="transformer")(tokens, read=count)
        return Dense(self.values, dtype=self.dtype, name="head")(tokens).astype(jnp.float32)


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
        tokens = Stack(**self.stack, dtype=self.dtype, name="transformer")(tokens, read=count)
        tokens = tokens.astype(jnp.float32)
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
        values: of a patch, `P`.
        target_values: of what a hidden patch becomes, `D`; 0 for those of the patch, `P`.
        width, depth, heads: the encoder.
        decoder_width, decoder_depth, decoder_heads: each head.
        loss_predictor: whether there is one; plain MAE has none.
        replaces: whether the student sees a learned token for some of the patches that it keeps.
        layout: cls token, positions and biases, see `hpm_jax/models/layouts.py`.
        dtype: of matrix products and of activations; parameters and outputs are float32.
        remat: a name in `REMAT_POLICIES`.
        unroll: blocks unrolled in each scanned stack; 0 unrolls all.
        attention: a name in `ATTENTIONS`.
        gather: see `Stack`.
    """

    grid: Grid
    values: int
    target_values: int = 0
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    loss_predictor: bool = True
    replaces: bool = False
    layout: Layout = LAYOUTS["mae"]
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    gather: Gather = as_they_are

    def setup(self):
        layout = self.layout

        def stack(depth, heads):
            unroll = self.unroll or depth
            how = {"unroll": unroll, "attention": self.attention, "gather": self.gather}
            return {"depth": depth, "heads": heads, "remat": self.remat} | how

        self.encoder = Encoder(
            self.grid,
            self.width,
            stack(self.depth, self.heads),
            self.dtype,
            layout,
            layout.positions,
        )
        self.decoder_input = DecoderInput(self.grid, self.decoder_width, self.dtype, layout)
        decoder = stack(self.decoder_depth, self.decoder_heads) | {"key_bias": layout.key_bias}
        self.reconstructor = Reconstructor(self.target_width, decoder, self.dtype)
        if self.loss_predictor:
            # as wide as pixels whatever the target is, as the official head
            self.predictor = LossPredictor(self.values, decoder, self.dtype)
        if self.replaces:
            self.replacing_token = self.param("replacing_token", token_init, (1, 1, self.width))

    @property
    def target_width(self) -> int:
        """Values of the target of one patch, `D`."""
        return self.target_values or self.values

    def __call__(self, patches: Array, mask: Mask) -> Prediction:
        """The student: encodes what is kept, rebuilds what is hidden, predicts its own loss."""
        replaced = None if mask.replaced is None else (mask.replaced, self.replacing_token)
        features = self.encoder(patches, mask.keep, replaced=replaced)
        tokens = self.decoder_input(features, mask.keep, mask.hide)
        count = mask.hide.shape[1]
        loss = self.predictor(tokens, count) if self.loss_predictor else None
        return Prediction(features, self.reconstructor(tokens, count), loss)

    def encode(
        self, patches: Array, collect: tuple[int, ...] = ()
    ) -> Array | tuple[Array, tuple[Array, ...]]:
        """Features of everything, `[B, 1 + L, D]`, cls first where the layout has one.

        With `collect`, numbers of blocks from 0, also the outputs of these, as many and as long,
        before the norm that ends the encoder.
        """
        outputs = self.encoder.outputs(patches, collect=collect)
        return (outputs.tokens, outputs.blocks) if collect else outputs.tokens

    def encode_with_attention(
        self, patches: Array, keep: Array | None = None
    ) -> tuple[Array, Array]:
        """Features, and how much the cls token attends to each patch in the encoder's last block.

        Args:
            patches: `[B, L, P]`.
            keep: `[B, K]` the patches that are seen; None for all, K = L.

        Returns:
            Features `[B, 1 + K, D]`, as of `encode`, and the heads' mean attention `[B, K]`
            float32. Without a cls token it is that of the mean of all queries.
        """
        outputs = self.encoder.outputs(patches, keep, attention=True)
        assert outputs.attention is not None
        return outputs.tokens, outputs.attention

    def look(
        self, patches: Array, reads: tuple[str, ...], mask: Mask | None = None
    ) -> dict[str, Array]:
        """What is asked about every patch, in one pass; nothing else is computed.

        Args:
            patches: `[B, L, P]`.
            reads: of "predicted_loss" `[B, L]`, "features" `[B, L, D]` of the last block, and
                "attention" `[B, L]`, float32.
            mask: what is not seen; None where everything is. The answers are then in the order
                `[visible, hidden]`, and there are predicted losses alone.

        Raises:
            ValueError: for features or attention of patches that are not seen.
        """
        if mask is not None and reads != ("predicted_loss",):
            raise ValueError(f"{reads} of patches that are not seen: only predicted_loss is there")
        keep = None if mask is None else mask.keep
        found = {}
        if "attention" in reads:
            features, found["attention"] = self.encode_with_attention(patches)
        else:
            features = self.encoder(patches, keep)
        if "features" in reads:
            found["features"] = features[:, self.layout.extra_tokens :].astype(jnp.float32)
        if "predicted_loss" in reads:
            found["predicted_loss"] = self.predict_loss_from(features, mask)
        return found

    def predict_loss_from(self, features: Array, mask: Mask | None = None) -> Array:
        """The loss expected at every patch from features of the encoder, `[B, 1 + K, D]`."""
        keep, hide = (None, None) if mask is None else mask[:2]
        tokens = self.decoder_input(features, keep, hide)
        return self.predictor(tokens, tokens.shape[1] - self.layout.extra_tokens)

    def predict_loss(self, patches: Array, mask: Mask | None = None) -> Array:
        """The loss expected at every patch, `[B, L]` float32; arguments as of `look`."""
        return self.look(patches, ("predicted_loss",), mask)["predicted_loss"]
