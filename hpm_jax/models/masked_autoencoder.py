"""The masked autoencoder with two heads: one reconstructs hidden patches, one predicts the loss."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from hpm_jax.models.decoders import Decoder, DecoderContext, SelfAttention, Sizes
from hpm_jax.models.decoders.decoder import Body
from hpm_jax.models.encoder import Encoder, stack_options, token_init
from hpm_jax.models.layers import Dense
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.quantization import QUANTIZATIONS
from hpm_jax.models.stack import Gather, Outputs, as_they_are
from hpm_jax.tokens import AnyArray, Grid, Mask, gather


class Prediction(NamedTuple):
    """The student's predictions for the hidden patches, in raster order."""

    # [B, 1 + K, D]: the encoder's output at visible patches, after cls and registers, if any
    features: Array
    values: Array  # [B, M, P] float32: the predicted target
    loss: Array | None  # [B, M] float32: the predicted loss; None without a loss predictor
    blocks: tuple[Array, ...] = ()  # [B, 1 + K, D] each: the outputs of blocks asked for
    # [B, M, D] each: the encoder's output as the decoder predicts it, and of hidden patches alone
    latents: tuple[Array, Array] | None = None
    # query, key and value of related blocks, [B, heads, 1 + K, D / heads] each
    heads: tuple[tuple[Array, ...], ...] = ()


class Reconstructor(nn.Module):
    """Predicts the target values of the `count` patches asked for, from the decoder's tokens."""

    values: int
    body: Body
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Any, count: int) -> Float32[Array, "B M P"]:
        tokens = self.body(tokens, count)
        return Dense(self.values, dtype=self.dtype, name="head")(tokens).astype(jnp.float32)


class LossPredictor(nn.Module):
    """Predicts the reconstruction loss of the `count` patches asked for, one number each.

    The official head maps to all values of a patch and then averages them. Here the kernel is
    averaged first, which is equivalent. The full kernel remains the parameter, because its initial
    scale and its treatment by AdamW are part of the method.
    """

    values: int
    body: Body

    @nn.compact
    def __call__(self, tokens: Any, count: int) -> Float32[Array, "B M"]:
        tokens = self.body(tokens, count).astype(jnp.float32)
        shape = (tokens.shape[-1], self.values)
        kernel = self.param("head_kernel", nn.initializers.xavier_uniform(), shape)
        bias = self.param("head_bias", nn.initializers.zeros, (self.values,))
        return tokens @ kernel.mean(axis=1) + bias.mean()


def is_block(read: str) -> bool:
    """Whether an output that is read is that of a block before the norm."""
    return read.startswith("block_")


def block_number(read: str, depth: int) -> int:
    """Of "block_N" from 0, where N counts from 1, or from the end of `depth` blocks: -1."""
    number = int(read.removeprefix("block_"))
    return number - 1 if number > 0 else depth + number


class MaskedAutoencoder(nn.Module):
    """Encoder, reconstructor and loss predictor of Hard Patches Mining.

    The input is normalised patches `[B, L, P]` float32 (see `patchify`). `apply` with
    `method="encode"` or `"predict_loss"` runs one part; calling the module runs the student.

    Attributes:
        grid: the grid of patches, `(t, h, w)`.
        values: number of values of a patch, `P`.
        target_values: number of values of a patch's target, `D`; 0 for those of the patch, `P`.
        width, depth, heads: sizes of the encoder.
        decoder_width, decoder_depth, decoder_heads: sizes of each decoder.
        decoder: kind of both decoders, see `hpm_jax/models/decoders`.
        loss_predictor: whether there is a loss predictor; plain MAE has none.
        replaces: whether a learned token replaces some visible patches in the student's input.
        layout: cls token, positions and biases, see `hpm_jax/models/layouts.py`.
        dtype: of matrix products and of activations; parameters and outputs are float32.
        remat: a name in `REMAT_POLICIES`.
        unroll: number of blocks unrolled in each scanned stack; 0 unrolls all.
        attention: a name in `ATTENTIONS`.
        gather, quantization: see `Stack`.
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
    decoder: Decoder = SelfAttention()
    loss_predictor: bool = True
    replaces: bool = False
    layout: Layout = LAYOUTS["mae"]
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    gather: Gather = as_they_are
    quantization: str = ""

    def setup(self):
        layout, decoder, sizes = self.layout, self.decoder, self.decoder_sizes
        self.encoder = Encoder(
            self.grid,
            self.width,
            self._stack_options(self.depth, self.heads),
            self.dtype,
            layout,
            layout.positions,
        )
        self.decoder_input = decoder.entry(sizes)
        self.reconstructor = Reconstructor(self.target_width, decoder.body(sizes), self.dtype)
        if self.loss_predictor:
            # as wide as pixels for every target, as the official head
            self.predictor = LossPredictor(self.values, decoder.body(sizes))
        if self.replaces and not decoder.in_place:
            self.replacing_token = self.param("replacing_token", token_init, (1, 1, self.width))

    def _stack_options(self, depth: int, heads: int) -> dict[str, Any]:
        return stack_options(self, depth, heads) | {"quantization": self.quantization}

    @property
    def decoder_sizes(self) -> Sizes:
        """The facts that the decoders are built from."""
        stack = self._stack_options(self.decoder_depth, self.decoder_heads)
        return Sizes(
            grid=self.grid,
            values=self.values,
            encoder_width=self.width,
            encoder_depth=self.depth,
            width=self.decoder_width,
            stack=stack | {"key_bias": self.layout.key_bias},
            layout=self.layout,
            dtype=self.dtype,
        )

    def computed_in(self, dtype: str) -> "MaskedAutoencoder":
        """Returns the same model, with the same parameters, computed in another dtype.

        Args:
            dtype: "float32" or "bfloat16"; or one of `QUANTIZATIONS` for the products with the
                kernels of all blocks, where embeddings, attention, norms and heads keep the dtype
                of the model. "" changes nothing.
        """
        if dtype in QUANTIZATIONS:
            return self.clone(quantization=dtype) if dtype else self
        return self.clone(dtype=jnp.dtype(dtype))

    @property
    def target_width(self) -> int:
        """Number of values of the target of one patch, `D`."""
        return self.target_values or self.values

    def __call__(
        self,
        patches: Float[AnyArray, "B L P"],
        mask: Mask,
        collect: tuple[int, ...] = (),
        drawn: Any = None,
        latents: bool = False,
        related: tuple[int, ...] = (),
    ) -> Prediction:
        """Runs the student: encodes visible patches, predicts hidden ones and their losses.

        Args:
            patches: `[B, L, P]`.
            mask: visible and hidden patches.
            collect: indices of blocks, from 0, whose outputs at visible patches are returned too.
            drawn: the random numbers of the decoder; None in evaluations.
            latents: whether hidden patches are encoded too, by themselves and without gradient; for
                a decoder that predicts the output of the encoder for them, see `Decoder.latent`.
            related: indices of blocks whose query, key and value are returned too.
        """
        of_decoder = self.decoder.collect(self.depth)
        every = tuple(sorted({*of_decoder, *collect}))
        encoded = self._outputs(patches, mask, every, related=related)
        found = dict(zip(every, encoded.blocks, strict=True))
        hide, count = mask.hide, mask.hide.shape[1]
        read = tuple(found[number] for number in of_decoder)
        context = DecoderContext(encoded.tokens, read, mask.keep, hide, hide, patches, drawn)
        tokens = self.decoder.tokens(self.decoder_input, context)
        loss = self.predictor(tokens, count) if self.loss_predictor else None
        features = self._visible(encoded.tokens, mask.keep)
        blocks = tuple(self._visible(found[number], mask.keep) for number in collect)
        heads = tuple(
            tuple(jax.vmap(self._visible, (1, None), 1)(part, mask.keep) for part in parts)
            for parts in encoded.heads
        )
        pair = None
        if latents:
            hidden = self.encoder(patches, mask.hide)[:, self.layout.extra_tokens :]
            pair = tokens, jax.lax.stop_gradient(hidden)
        return Prediction(features, self.reconstructor(tokens, count), loss, blocks, pair, heads)

    def _outputs(
        self,
        patches: Float[AnyArray, "B L P"],
        mask: Mask | None,
        collect: tuple[int, ...] = (),
        attention: bool = False,
        related: tuple[int, ...] = (),
    ) -> Outputs:
        """Encodes what a mask leaves visible; None leaves everything.

        Returns `[B, 1 + K, D]` in the order of `mask.keep`; `[B, 1 + L, D]` in raster order if the
        decoder has its mask tokens in the encoder.
        """
        encode = self.encoder.outputs
        if mask is None:
            return encode(patches, collect=collect, attention=attention)
        if self.decoder.in_place:
            token = hidden_places(mask, patches.shape[1]), self.decoder_input()
            return encode(patches, None, None, collect, attention, token, related)
        replaced = None if mask.replaced is None else (mask.replaced, self.replacing_token)
        return encode(patches, mask.keep, None, collect, attention, replaced, related)

    def _visible(
        self, features: Float[AnyArray, "B N D"], keep: Int[AnyArray, "B K"]
    ) -> Float[Array, "B _ D"]:
        """Returns the features of the cls token and of the visible patches, `[B, 1 + K, D]`."""
        if not self.decoder.in_place:
            return features
        extra = self.layout.extra_tokens
        return jnp.concatenate([features[:, :extra], gather(features[:, extra:], keep)], axis=1)

    def encode(
        self, patches: Float[AnyArray, "B L P"], collect: tuple[int, ...] = ()
    ) -> Float[Array, "B N D"] | tuple[Float[Array, "B N D"], tuple[Float[Array, "B N D"], ...]]:
        """Returns features of all patches, `[B, 1 + L, D]`, cls first if the layout has one.

        With `collect`, indices of blocks from 0, also their outputs, of the same shape, before the
        encoder's last norm.
        """
        outputs = self.encoder.outputs(patches, collect=collect)
        return (outputs.tokens, outputs.blocks) if collect else outputs.tokens

    def encode_with_attention(
        self, patches: Float[AnyArray, "B L P"], keep: Int[AnyArray, "B K"] | None = None
    ) -> tuple[Float[Array, "B N D"], Float32[Array, "B seen"]]:
        """Returns features, and the attention of the cls token to each patch in the last block.

        Args:
            patches: `[B, L, P]`.
            keep: `[B, K]` indices of the patches to encode; None for all, K = L.

        Returns:
            Features `[B, 1 + K, D]`, as from `encode`, and the mean attention of the heads `[B, K]`
            float32. Without a cls token it is that of the mean of all queries. The attention of the
            cls token to itself is not part of the sum.
        """
        outputs = self.encoder.outputs(patches, keep, attention=True)
        assert outputs.attention is not None
        return outputs.tokens, outputs.attention.mean(axis=1)[:, self.layout.extra_tokens :]

    def read(
        self, patches: Float[AnyArray, "B L P"], reads: tuple[str, ...], mask: Mask | None = None
    ) -> dict[str, Array]:
        """Returns the outputs named by `reads` for every patch, in one pass.

        Args:
            patches: `[B, L, P]`.
            reads: some of "predicted_loss" `[B, L]`, "features" `[B, L, D]` of the last block after
                the norm, "block_N" `[B, L, D]` of block N before it, from 1, or from the end, and
                "attention" `[B, L]`, float32.
            mask: patches to hide from the encoder; None for none. With a mask the only output is
                the predicted loss, in the order `[visible, hidden]`.

        Raises:
            ValueError: for features or attention of hidden patches.
        """
        if mask is not None and reads != ("predicted_loss",):
            raise ValueError(f"{reads} of patches that are not seen: only predicted_loss is there")
        extra, found = self.layout.extra_tokens, {}
        blocks = {name: block_number(name, self.depth) for name in reads if is_block(name)}
        predicts = "predicted_loss" in reads
        of_decoder = self.decoder.collect(self.depth) if predicts else ()
        collect = tuple(sorted({*blocks.values(), *of_decoder}))
        outputs = self._outputs(patches, mask, collect, attention="attention" in reads)
        collected = dict(zip(collect, outputs.blocks, strict=True))
        features = outputs.tokens
        if outputs.attention is not None:
            found["attention"] = outputs.attention.mean(axis=1)[:, extra:]
        if "features" in reads:
            found["features"] = features[:, extra:].astype(jnp.float32)
        for name, number in blocks.items():
            found[name] = collected[number][:, extra:].astype(jnp.float32)
        if predicts:
            read = tuple(collected[number] for number in of_decoder)
            found["predicted_loss"] = self._predicted_loss(features, read, mask)
        return found

    def predict_loss_from(
        self, features: Float[AnyArray, "B N D"], mask: Mask | None = None
    ) -> Float32[Array, "B L"]:
        """Returns the predicted loss of every patch from encoder features `[B, 1 + K, D]`."""
        return self._predicted_loss(features, (), mask)

    def _predicted_loss(
        self, features: Float[AnyArray, "B N D"], blocks: tuple[Array, ...], mask: Mask | None
    ) -> Float32[Array, "B L"]:
        """Returns the predicted loss of every patch, in the order `[visible, hidden]`."""
        keep, hide = (None, None) if mask is None else mask[:2]
        every = None if mask is None else jnp.concatenate([mask.keep, mask.hide], axis=1)
        context = DecoderContext(jnp.asarray(features), blocks, keep, hide, every)
        tokens = self.decoder.tokens(self.decoder_input, context)
        return self.predictor(tokens, self.decoder_sizes.length)

    def predict_loss(
        self, patches: Float[AnyArray, "B L P"], mask: Mask | None = None
    ) -> Float32[Array, "B L"]:
        """Returns the predicted loss of every patch, `[B, L]` float32; arguments as in `read`."""
        return self.read(patches, ("predicted_loss",), mask)["predicted_loss"]


def hidden_places(mask: Mask, length: int) -> Bool[Array, "B L"]:
    """Returns which of `length` patches the encoder does not see: not kept, or replaced."""
    shown = mask.keep[:, :, None] == jnp.arange(length)
    if mask.replaced is not None:
        shown &= ~mask.replaced[:, :, None]
    return ~shown.any(axis=1)
