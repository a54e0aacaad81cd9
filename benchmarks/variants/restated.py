"""The masked autoencoder of images once more, as functions whose parts can be exchanged.

It runs on the parameters of `hpm_jax.models.MaskedAutoencoder`, so that its loss and its gradients
can be compared number by number. A part gets the model, so that it finds the other parts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hpm_jax.models import MaskedAutoencoder, Prediction
from hpm_jax.models.decoders import Sizes
from hpm_jax.models.layers import layer_norm
from hpm_jax.models.mlp import gelu
from hpm_jax.models.positions import sincos_2d
from hpm_jax.models.scaled_dot_product import attend
from hpm_jax.models.stack import REMAT_POLICIES
from hpm_jax.tokens import Mask, gather

Params = Any
Mix = Callable[[Array, Array, Array], Array]


def kept_by_name(body: Callable) -> Callable:
    """A block whose backward pass keeps what the package's keeps."""
    return jax.checkpoint(body, prevent_cse=False, policy=REMAT_POLICIES["none"])


def dense(params: Params, x: Array) -> Array:
    """A linear layer in the dtype of `x`."""
    return x @ params["kernel"].astype(x.dtype) + params["bias"].astype(x.dtype)


def norm(params: Params, x: Array) -> Array:
    """The layer norm of the package."""
    return layer_norm(x.dtype).apply({"params": params}, x)


def split_heads(
    model: "Restated", params: Params, x: Array, heads: int, read: int
) -> tuple[Array, ...]:
    """Query, key and value `[B, heads, N, head width]` of tokens `[B, N, D]`.

    By three products, each of which writes that order itself; queries of the last `read` tokens.
    """
    width = x.shape[2]
    kernels = params["kernel"].astype(x.dtype).reshape(width, 3, heads, width // heads)
    biases = params["bias"].astype(x.dtype).reshape(3, heads, 1, width // heads)
    return tuple(
        jnp.einsum("bnw,whd->bhnd", tokens, kernels[:, part]) + biases[part]
        for part, tokens in enumerate((x[:, -read:], x, x))
    )


def join_heads(model: "Restated", params: Params, out: Array) -> Array:
    """`[B, heads, N, head width]` to tokens `[B, N, D]`, projected, by one product."""
    heads, width = out.shape[1], out.shape[3]
    kernel = params["kernel"].astype(out.dtype).reshape(heads, width, -1)
    return jnp.einsum("bhnd,hdw->bnw", out, kernel) + params["bias"].astype(out.dtype)


def attention(model: "Restated", params: Params, x: Array, heads: int, read: int) -> Array:
    """Self-attention of tokens `[B, N, D]`; the last `read` of them are asked for."""
    split = model.split_heads(model, params["qkv"], x, heads, read)
    # named here, so that the backward pass keeps them whatever form they come in
    query, key, value = checkpoint_name(tuple(split), "heads")
    mixed = checkpoint_name(model.mix(query, key, value), "attended")
    return model.join_heads(model, params["projection"], mixed)


def mlp(model: "Restated", params: Params, x: Array) -> Array:
    """Two linear layers, without the norm before."""
    hidden = checkpoint_name(model.dense(params["Dense_0"], x), "hidden")
    return model.dense(params["Dense_1"], model.gelu(hidden))


def block(model: "Restated", params: Params, x: Array, heads: int, read: int) -> Array:
    """The pre-norm block; the last `read` tokens of its result."""
    normed = model.norm(params["LayerNorm_0"], x)
    attended = model.attention(model, params["attention"], normed, heads, read)
    x = checkpoint_name(x[:, -read:] + attended, "middle")
    return x + model.mlp(model, params, model.norm(params["LayerNorm_1"], x))


def scanned(model: "Restated", params: Params, x: Array, heads: int, count: int) -> Array:
    """All blocks in a scan, then the norm; the last `count` tokens of the result.

    Where they are not all, the last block is taken by itself, and computes no others.
    """
    blocks = params["blocks"]
    if count < x.shape[1]:
        x = scan(model, jax.tree.map(lambda p: p[:-1], blocks), x, heads)
        last = model.checkpoint(lambda x, params: model.block(model, params, x, heads, count))
        x = last(x, jax.tree.map(lambda p: p[-1], blocks))
    else:
        x = scan(model, blocks, x, heads)
    return norm(params["norm"], x)


def scan(model: "Restated", blocks: Params, x: Array, heads: int) -> Array:
    """Blocks `[depth, ...]`, one after the other, of all tokens."""
    depth, read = len(jax.tree.leaves(blocks)[0]), x.shape[1]
    body = model.checkpoint(lambda x, params: (model.block(model, params, x, heads, read), None))
    return jax.lax.scan(body, x, blocks, unroll=model.sizes.unroll or max(depth, 1))[0]


def gather_then_embed(
    model: "Restated", params: Params, patches: Array, keep: Array | None
) -> Array:
    """Tokens of the visible patches, with their positions; hidden ones are never embedded."""
    positions = model.positions(model.sizes.width)
    if keep is not None:
        patches, positions = gather(patches, keep), positions[keep]
    return model.dense(params["projection"], patches.astype(positions.dtype)) + positions


def in_turn(model: "Restated", params: Params, tokens: Array, count: int) -> tuple[Array, Array]:
    """Both decoders, one after the other: the rebuilt values, and the predicted loss."""
    loss = predicted(model, params["predictor"], tokens, count)
    heads = model.sizes.decoder_heads
    rebuilt = params["reconstructor"]
    tokens = model.stack(model, rebuilt["transformer"], tokens, heads, count)
    return model.dense(rebuilt["head"], tokens).astype(jnp.float32), loss


def predicted(model: "Restated", params: Params, tokens: Array, count: int) -> Array:
    """The loss predictor on the last `count` tokens."""
    heads = model.sizes.decoder_heads
    tokens = model.stack(model, params["transformer"], tokens, heads, count)
    return model.loss_head(params, tokens.astype(jnp.float32))


def mean_kernel(params: Params, tokens: Array) -> Array:
    """The loss head: a product with the mean of its kernel's columns."""
    return tokens @ params["head_kernel"].mean(axis=1) + params["head_bias"].mean()


@dataclasses.dataclass(frozen=True)
class Restated:
    """Stands in for a `MaskedAutoencoder` in a training step; see `apply`."""

    sizes: MaskedAutoencoder  # of images; of it only the attributes are read
    dense: Callable[[Params, Array], Array] = dense
    norm: Callable[[Params, Array], Array] = norm
    mlp: Callable[..., Array] = mlp
    gelu: Callable[[Array], Array] = gelu
    mix: Mix = attend
    split_heads: Callable[..., Array] = split_heads
    join_heads: Callable[..., Array] = join_heads
    attention: Callable[..., Array] = attention
    block: Callable[..., Array] = block
    stack: Callable[..., Array] = scanned
    embed: Callable[..., Array] = gather_then_embed
    decode: Callable[..., tuple[Array, Array]] = in_turn
    loss_head: Callable[[Params, Array], Array] = mean_kernel
    checkpoint: Callable[[Callable], Callable] = kept_by_name
    prepare: Callable[[Params], Params] = lambda params: params  # once a pass

    @property
    def grid(self) -> tuple[int, int, int]:
        """The grid of patches."""
        return self.sizes.grid

    @property
    def decoder_sizes(self) -> Sizes:
        """The facts that decoders are built from."""
        return self.sizes.decoder_sizes

    def apply(self, variables: Params, *arguments: Any, method: str = "student") -> Any:
        """As `MaskedAutoencoder.apply`: the student, or by `method="read"` the teacher."""
        return getattr(self, method)(self.prepare(variables["params"]), *arguments)

    def positions(self, width: int) -> Array:
        """The constants `[L, width]`."""
        return jnp.asarray(sincos_2d(width, self.grid)).astype(self.sizes.dtype)

    def encode(self, params: Params, patches: Array, keep: Array | None) -> Array:
        """Features `[B, 1 + K, D]` of all patches, or of those at `keep` `[B, K]`."""
        tokens = self.embed(self, params["patch_embedding"], patches, keep)
        cls_token = jnp.broadcast_to(params["cls_token"], (len(tokens), 1, tokens.shape[2]))
        tokens = jnp.concatenate([cls_token.astype(tokens.dtype), tokens], axis=1)
        return self.stack(self, params["transformer"], tokens, self.sizes.heads, tokens.shape[1])

    def student(self, params: Params, patches: Array, mask: Mask, *_: Any) -> Prediction:
        """Encodes what is kept, rebuilds what is hidden, predicts its own loss."""
        features = self.encode(params["encoder"], patches, mask.keep)
        entry, positions = params["decoder_input"], self.positions(self.sizes.decoder_width)
        tokens = self.dense(entry["embedding"], features)
        visible = tokens[:, 1:] + positions[mask.keep]
        hidden = entry["mask_token"].astype(tokens.dtype) + positions[mask.hide]
        tokens = jnp.concatenate([tokens[:, :1], visible, hidden], axis=1)
        values, loss = self.decode(self, params, tokens, mask.hide.shape[1])
        return Prediction(features, values, loss)

    def read(
        self, params: Params, patches: Array, reads: tuple[str, ...] = ("predicted_loss",)
    ) -> dict[str, Array]:
        """What a step asks the teacher, who predicts losses alone."""
        assert reads == ("predicted_loss",)
        return {"predicted_loss": self.predict_loss(params, patches)}

    def predict_loss(self, params: Params, patches: Array, keep: Array | None = None) -> Array:
        """The teacher: the loss it expects at every patch that it sees, `[B, L]` or `[B, K]`."""
        features = self.encode(params["encoder"], patches, keep)
        positions = self.positions(self.sizes.decoder_width)
        tokens = self.dense(params["decoder_input"]["embedding"], features)
        tokens = tokens.at[:, 1:].add(positions if keep is None else positions[keep])
        return predicted(self, params["predictor"], tokens, tokens.shape[1] - 1)
