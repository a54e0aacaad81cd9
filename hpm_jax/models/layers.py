"""The pre-norm transformer block, and its layer norm, stochastic depth and dropout."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hpm_jax.models.attention import Attention, Rotation
from hpm_jax.models.decomposed import Decomposed
from hpm_jax.models.mlp import MLPS, inner_width
from hpm_jax.models.products import dot_general
from hpm_jax.models.quantization import dense_options
from hpm_jax.models.relative import Relative

Dense = functools.partial(
    nn.Dense, kernel_init=nn.initializers.xavier_uniform(), dot_general=dot_general
)
# PyTorch's default initialisation of a linear layer: uniform within 1 / sqrt(inputs)
pytorch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def layer_norm(
    dtype: Any, name: str | None = None, eps: float = 1e-6, **place: Any
) -> nn.LayerNorm:
    """Returns layer normalisation, with MAE's eps; flax computes its statistics in float32.

    `parent=None` in `place` makes a layer outside any module.
    """
    return nn.LayerNorm(epsilon=eps, dtype=dtype, name=name, **place)


def frozen_tokens(tokens: Array) -> Array:
    """Normalises tokens `[..., D]` of an encoder that gets no gradient, to float32.

    The layer norm has no scale and offset. Its statistics are those of one token, so that a head on
    top is independent of the scale of the features and of the other images of a batch.
    """
    norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, parent=None)
    normed: Any = norm.apply({}, jax.lax.stop_gradient(tokens).astype(jnp.float32))
    return normed


def feed_forward(
    x: Array,
    dtype: Any,
    mlp: str = "gelu",
    mlp_width: int = 0,
    eps: float = 1e-6,
    quantization: str = "",
) -> Array:
    """Computes `mlp(norm(x))` of tokens `[B, N, D]`, with layers of the module that calls it."""
    width = x.shape[-1]
    inner = inner_width(mlp, width, mlp_width)
    dense = functools.partial(Dense, dtype=dtype, **dense_options(quantization))
    hidden = dense(inner)(layer_norm(dtype, eps=eps)(x))
    hidden = checkpoint_name(hidden, "hidden")
    return dense(width)(MLPS[mlp](hidden))


class Block(nn.Module):
    """The pre-norm block: `x += attention(norm(x)); x += mlp(norm(x))`.

    Attributes:
        key_bias, attention: see `Attention`.
        mlp: a name in `MLPS`; mlp_width: its hidden width, 0 for the default.
        layer_scale: initial value of a factor on each channel of both branches (Touvron et al.
            2021, Going deeper with image transformers); 0 for no such factors.
        norm_eps: epsilon of the norms.
        relative, qk_norm: see `Attention`.
        quantization: of the products with kernels, a name in `QUANTIZATIONS`.
    """

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True
    attention: str = "xla"
    mlp: str = "gelu"
    mlp_width: int = 0
    layer_scale: float = 0.0
    norm_eps: float = 1e-6
    relative: Relative | Decomposed | None = None
    qk_norm: bool = False
    quantization: str = ""

    @nn.compact
    def __call__(
        self,
        x: Array,
        drop: Array | None = None,
        read: int | None = None,
        rotation: Rotation | None = None,
    ) -> Array:
        """Maps tokens `[B, N, D]` to the last `read` of them, or all, `[B, read, D]`.

        `drop` `[2, B]` multiplies the two branches of each image; see `drop_paths`. `rotation` is
        from `hpm_jax.models.rotary`.
        """
        read = read or x.shape[1]
        attention = self._attention(self.attention, name="attention")
        normed = layer_norm(self.dtype, eps=self.norm_eps)(x)
        attended = self._attended(attention, normed, read, rotation)
        attended = self._scaled(attended, "attention_scale")
        x = x[:, -read:] + (attended if drop is None else attended * _factor(drop[0], x))
        x = checkpoint_name(x, "middle")
        of_mlp = self.mlp, self.mlp_width, self.norm_eps, self.quantization
        mixed = feed_forward(x, self.dtype, *of_mlp)
        mixed = self._scaled(mixed, "mlp_scale")
        return x + (mixed if drop is None else mixed * _factor(drop[1], x))

    def _attended(
        self, attention: Attention, x: Array, read: int, rotation: Rotation | None
    ) -> Array:
        """Applies attention to normalised tokens; `WindowedBlock` does so window by window."""
        return attention(x, read, rotation)

    def _attention(self, attention: str, **place: Any) -> Attention:
        numbers = self.heads, self.dtype, self.key_bias, attention
        others = self.relative, self.qk_norm, self.norm_eps, self.quantization
        return Attention(*numbers, *others, **place)

    def _scaled(self, branch: Array, name: str) -> Array:
        """Multiplies a branch by its layer scale, if the block has one."""
        if not self.layer_scale:
            return branch
        start = nn.initializers.constant(self.layer_scale)
        return branch * self.param(name, start, (branch.shape[-1],)).astype(branch.dtype)

    def summary_weights(
        self, params: Any, x: Array, query: str, rotation: Rotation | None = None
    ) -> Array:
        """Returns attention `[B, heads, N]` of the "first" or "mean" query of tokens `[B, N, D]`.

        `params` are the parameters of this block; the module need not be bound.
        """
        first = {"first": True, "mean": False}[query]
        return self._attention_of(params, x, first, rotation, method="summary_weights")

    def heads_of(
        self, params: Any, x: Array, rotation: Rotation | None = None
    ) -> tuple[Array, Array, Array]:
        """Returns query, key and value of tokens `[B, N, D]`, `[B, heads, N, D / heads]` each.

        `params` are the parameters of this block; the module need not be bound.
        """
        return self._attention_of(params, x, rotation, method="heads_of")

    def _attention_of(self, params: Any, x: Array, *arguments: Any, method: str) -> Any:
        """Calls a method of the attention for the normalised tokens, with parameters given."""
        norm = layer_norm(self.dtype, eps=self.norm_eps, parent=None)
        attention = self._attention("xla", parent=None)
        normed = norm.apply({"params": params["LayerNorm_0"]}, x)
        return attention.apply({"params": params["attention"]}, normed, *arguments, method=method)


def _factor(drop: Array, x: Array) -> Array:
    return drop[:, None, None].astype(x.dtype)


def drop_paths(key: Array, batch: int, depth: int, rate: float) -> Array | None:
    """Draws stochastic depth (Huang et al. 2016): factors per branch and block, `[B, depth, 2]`.

    None if the rate is 0.

    A factor is 0 with a probability that grows linearly from 0 in the first block to `rate` in the
    last, else 1 / (1 - probability), independently for each image; float32.
    """
    if not rate:
        return None
    kept = 1.0 - jnp.linspace(0.0, rate, depth)[:, None]
    return jnp.where(jax.random.bernoulli(key, kept, (batch, depth, 2)), 1.0 / kept, 0.0)


def dropout(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """Draws dropout factors (Srivastava et al. 2014): 0 or 1 / (1 - rate)."""
    kept = 1.0 - rate
    return jnp.where(jax.random.bernoulli(key, kept, shape), jnp.float32(1.0 / kept), 0.0)
