"""The pre-norm transformer block, and a scanned stack that compiles equally fast at any depth."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

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

# What the backward pass keeps from the forward pass, by name in a config: the input of each block,
# and these values of 9, 5 or 0 times its width. Norms and activations are always recomputed.
KEPT = {
    "none": ("heads", "attended", "rows", "middle", "hidden"),
    "mlp": ("heads", "attended", "rows", "middle"),
    "full": (),
}
FUSED = "dot_product_attention_fwd_wrapper"  # JAX's name of cuDNN's forward pass


def keeping(names: tuple[str, ...]) -> Callable[..., bool]:
    """Returns the policy that keeps values of these names, and with any the outputs of `FUSED`.

    These are the attended values and a number a row, which are kept of our attention by name.
    """
    named = jax.checkpoint_policies.save_only_these_names(*names)

    def policy(primitive: Any, *avals: Any, **params: Any) -> bool:
        return (primitive.name == FUSED and bool(names)) or named(primitive, *avals, **params)

    return policy


REMAT_POLICIES = {remat: keeping(names) for remat, names in KEPT.items()}


Gather = Callable[[Any], Any]  # maps a tree of parameters


def as_they_are(params: Any) -> Any:
    """Returns parameters unchanged; for parameters that every device has."""
    return params


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


class Outputs(NamedTuple):
    """The outputs of a stack of blocks for tokens `[B, N, D]`."""

    tokens: Array  # [B, read, D]: of the last block, normalised if the stack has a norm
    blocks: tuple[Array, ...]  # [B, N, D] each: of the collected blocks, not normalised
    attention: Array | None  # [B, heads, N] float32: of one query in the last block
    heads: tuple[tuple[Array, Array, Array], ...] = ()  # query, key and value of related blocks


class Stack(nn.Module):
    """`depth` blocks with their parameters stacked on a leading axis, then a layer norm.

    Attributes:
        remat: a name in `REMAT_POLICIES`.
        unroll: number of blocks unrolled per scan iteration; more is faster but compiles slower.
        norm: whether there is a layer norm at the end.
        key_bias, attention, mlp, mlp_width, layer_scale, norm_eps, relative, qk_norm,
            quantization: see `Block`.
        gather: applied to the parameters of a block before their use; it gathers parameters that
            are sharded over devices, one block at a time.
    """

    depth: int
    heads: int
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    norm: bool = True
    key_bias: bool = True
    attention: str = "xla"
    mlp: str = "gelu"
    mlp_width: int = 0
    layer_scale: float = 0.0
    norm_eps: float = 1e-6
    relative: Relative | None = None
    qk_norm: bool = False
    gather: Gather = as_they_are
    quantization: str = ""

    def __call__(self, x: Array, drop: Array | None = None, read: int | None = None) -> Array:
        """Maps tokens `[B, N, D]` to the last `read` of them, or all, `[B, read, D]`.

        The other tokens are only keys and values in the last block. `drop` `[B, depth, 2]` is from
        `drop_paths`.
        """
        return self.outputs(x, drop, read).tokens

    @nn.compact
    def outputs(
        self,
        x: Array,
        drop: Array | None = None,
        read: int | None = None,
        collect: tuple[int, ...] = (),
        attention_of: str = "",
        rotation: Rotation | None = None,
        related: tuple[int, ...] = (),
    ) -> Outputs:
        """Returns the tokens and intermediate outputs, at no extra cost if none are requested.

        Args:
            collect: indices of blocks, from 0, whose outputs are returned.
            attention_of: the query whose attention in the last block is returned: "first" token,
                or the "mean" of all; "" for none.
            rotation: rotary positions of the tokens, the same in every block.
            related: indices of blocks whose query, key and value are returned; they are computed
                once more.

        Raises:
            ValueError: if there is no such block.
        """
        if wrong := [number for number in collect + related if not 0 <= number < self.depth]:
            raise ValueError(f"no block {wrong[0]} to collect: the {self.depth} count from 0")
        # parameters are initialised on any device, and without cuDNN, which `vmap` cannot map
        start = Block(
            self.heads,
            self.dtype,
            self.key_bias,
            "xla",
            self.mlp,
            self.mlp_width,
            self.layer_scale,
            self.norm_eps,
            self.relative,
            self.qk_norm,
            self.quantization,
            parent=None,
        )
        block = start if self.is_initializing() else start.clone(attention=self.attention)
        init = jax.vmap(lambda key: start.init(key, x[:1])["params"])
        params = self.param("blocks", lambda key: init(jax.random.split(key, self.depth)))
        # one slice [2, B] per block
        each = params, None if drop is None else drop.transpose(1, 2, 0)

        def prepared(params: Any) -> Any:
            return self.gather(jax.tree.map(self._cast, params))

        def step(read: int):
            def step(x, one):
                params = {"params": prepared(one[0])}
                return block.apply(params, x, one[1], read, rotation), None

            return jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])

        def block_params(number: int) -> Any:
            return prepared(jax.tree.map(lambda one: one[number], params))

        def last() -> Any:
            return jax.tree.map(lambda one: one[-1], each)

        length = x.shape[1]
        read = length if read is None else read
        short = read < length and self.depth > 0
        # a scan, split after each collected block, and before the last block if its input is needed
        stops = {number + 1 for number in collect} | ({self.depth - 1} if attention_of else set())
        stops |= set(related)
        ends = sorted({0, *stops, self.depth - short} - ({self.depth} if short else set()))
        after = {0: x}  # tokens by the number of blocks applied
        for first, end in itertools.pairwise(ends):
            some = jax.tree.map(lambda one, part=slice(first, end): one[part], each)
            x, _ = jax.lax.scan(step(length), x, some, unroll=self.unroll)
            after[end] = x
        attention = None
        if attention_of:
            its_own = block_params(self.depth - 1)
            tokens = after[self.depth - 1]
            attention = block.summary_weights(its_own, tokens, attention_of, rotation)
        if short:
            x, _ = step(read)(x, last())
            after[self.depth] = x
        collected = tuple(after[number + 1] for number in collect)
        tokens = layer_norm(self.dtype, "norm", self.norm_eps)(x) if self.norm else x
        heads = tuple(block.heads_of(block_params(n), after[n], rotation) for n in related)
        return Outputs(tokens, collected, attention, heads)

    def _cast(self, param: Array) -> Array:
        """Casts kernels to the dtype of their use, so that less is gathered."""
        return param.astype(self.dtype) if param.ndim > 1 else param
