"""The pre-norm transformer block, and a stack of them: scanned, so depth costs no compile time."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hpm_jax.models.attention import Attention

Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())
# PyTorch's own start of a linear layer: uniform within 1 / sqrt(inputs)
pytorch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# What the backward pass keeps from the forward pass, by name in a config: beside the input of each
# block these values of 9, 5 or 0 times its width. Norms and activations are always computed again.
KEPT = {
    "none": ("heads", "attended", "rows", "middle", "hidden"),
    "mlp": ("heads", "attended", "rows", "middle"),
    "full": (),
}
REMAT_POLICIES = {
    remat: jax.checkpoint_policies.save_only_these_names(*names) for remat, names in KEPT.items()
}


Gather = Callable[[Any], Any]  # of a tree of parameters


def as_they_are(params: Any) -> Any:
    """For parameters that every device has."""
    return params


def layer_norm(dtype: Any, name: str | None = None, **place: Any) -> nn.LayerNorm:
    """Layer normalisation with the eps of MAE, 1e-6; flax keeps its statistics in float32.

    `parent=None` in `place` makes one that belongs to no module.
    """
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name, **place)


def gelu(x: Array) -> Array:
    """The exact GELU, by erf: `jax.nn.gelu` goes by erfc, which takes longer on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


class Block(nn.Module):
    """The pre-norm block: `x += attention(norm(x)); x += mlp(norm(x))`."""

    heads: int
    dtype: Any = jnp.float32
    key_bias: bool = True
    attention: str = "xla"

    @nn.compact
    def __call__(self, x: Array, drop: Array | None = None, read: int | None = None) -> Array:
        """Tokens `[B, N, D]` to the last `read` of them, or all, `[B, read, D]`.

        `drop` `[2, B]` multiplies the two branches, image by image; see `drop_paths`.
        """
        width, read = x.shape[-1], read or x.shape[1]
        attention = Attention(
            self.heads, self.dtype, self.key_bias, self.attention, name="attention"
        )
        attended = attention(layer_norm(self.dtype)(x), read)
        x = x[:, -read:] + (attended if drop is None else attended * _factor(drop[0], x))
        x = checkpoint_name(x, "middle")
        hidden = Dense(4 * width, dtype=self.dtype)(layer_norm(self.dtype)(x))
        hidden = checkpoint_name(hidden, "hidden")
        mixed = Dense(width, dtype=self.dtype)(gelu(hidden))
        return x + (mixed if drop is None else mixed * _factor(drop[1], x))

    def summary_weights(self, params: Any, x: Array, query: str) -> Array:
        """Attention `[B, N]` of the "first" or the "mean" query of tokens `[B, N, D]`, float32.

        `params` are those of this block, which need not be bound.
        """
        norm = layer_norm(self.dtype, parent=None)
        attention = Attention(self.heads, self.dtype, self.key_bias, parent=None)
        normed = norm.apply({"params": params["LayerNorm_0"]}, x)
        first = {"first": True, "mean": False}[query]
        of = {"params": params["attention"]}
        weights: Any = attention.apply(of, normed, first, method="summary_weights")
        return weights


def _factor(drop: Array, x: Array) -> Array:
    return drop[:, None, None].astype(x.dtype)


def drop_paths(key: Array, batch: int, depth: int, rate: float) -> Array:
    """Stochastic depth (Huang et al. 2016): factors of each branch of each block, `[B, depth, 2]`.

    0 with a probability that grows linearly from 0 in the first block to `rate` in the last, else
    1 / (1 - probability), for each image by itself; float32.
    """
    kept = 1.0 - jnp.linspace(0.0, rate, depth)[:, None]
    return jnp.where(jax.random.bernoulli(key, kept, (batch, depth, 2)), 1.0 / kept, 0.0)


def dropout(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """Dropout (Srivastava et al. 2014): factors, 0 with probability `rate`, else 1 / (1 - rate)."""
    kept = 1.0 - rate
    return jnp.where(jax.random.bernoulli(key, kept, shape), jnp.float32(1.0 / kept), 0.0)


class Outputs(NamedTuple):
    """What a stack of blocks computes of tokens `[B, N, D]`."""

    tokens: Array  # [B, read, D]: of the last block, normalised where the stack has a norm
    blocks: tuple[Array, ...]  # [B, N, D] each: of the blocks that were collected, not normalised
    attention: Array | None  # [B, N] float32: the weights of one query in the last block


class Stack(nn.Module):
    """`depth` blocks with their parameters stacked on a leading axis, then a layer norm.

    Attributes:
        remat: a name in `REMAT_POLICIES`.
        unroll: how many blocks the compiler sees at once; more runs faster and compiles slower.
        norm: whether there is a layer norm at the end.
        key_bias, attention: see `Attention`.
        gather: what is done to the parameters of a block before it uses them: where they are split
            over devices, they come together here, one block at a time.
    """

    depth: int
    heads: int
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    norm: bool = True
    key_bias: bool = True
    attention: str = "xla"
    gather: Gather = as_they_are

    def __call__(self, x: Array, drop: Array | None = None, read: int | None = None) -> Array:
        """Tokens `[B, N, D]` to the last `read` of them, or all, `[B, read, D]`.

        Tokens that nobody reads are only keys and values of the last block, and go no further.
        `drop` `[B, depth, 2]` is from `drop_paths`.
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
    ) -> Outputs:
        """The same with what the blocks computed on the way; costs nothing where none is asked for.

        Args:
            collect: numbers of blocks, from 0, whose outputs are returned.
            attention_of: the query whose attention in the last block is returned: "first" token,
                or the "mean" of all; "" for none.

        Raises:
            ValueError: where there is no such block.
        """
        if wrong := [number for number in collect if not 0 <= number < self.depth]:
            raise ValueError(f"no block {wrong[0]} to collect: the {self.depth} count from 0")
        block = Block(self.heads, self.dtype, self.key_bias, self.attention, parent=None)
        start = jax.vmap(lambda key: block.init(key, x[:1])["params"])
        params = self.param("blocks", lambda key: start(jax.random.split(key, self.depth)))
        # one slice [2, B] a block
        each = params, None if drop is None else drop.transpose(1, 2, 0)

        def prepared(params: Any) -> Any:
            return self.gather(jax.tree.map(self._cast, params))

        def step(read: int):
            def step(x, one):
                return block.apply({"params": prepared(one[0])}, x, one[1], read), None

            return jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])

        def last() -> Any:
            return jax.tree.map(lambda one: one[-1], each)

        length = x.shape[1]
        read = length if read is None else read
        short = read < length and self.depth > 0
        # one scan, which stops after each block that is collected, and before the last block where
        # its input is needed
        stops = {number + 1 for number in collect} | ({self.depth - 1} if attention_of else set())
        ends = sorted({0, *stops, self.depth - short} - ({self.depth} if short else set()))
        after = {0: x}  # the tokens after so many blocks
        for first, end in itertools.pairwise(ends):
            some = jax.tree.map(lambda one, part=slice(first, end): one[part], each)
            x, _ = jax.lax.scan(step(length), x, some, unroll=self.unroll)
            after[end] = x
        attention = None
        if attention_of:
            params = prepared(last()[0])
            attention = block.summary_weights(params, after[self.depth - 1], attention_of)
        if short:
            x, _ = step(read)(x, last())
            after[self.depth] = x
        collected = tuple(after[number + 1] for number in collect)
        tokens = layer_norm(self.dtype, name="norm")(x) if self.norm else x
        return Outputs(tokens, collected, attention)

    def _cast(self, param: Array) -> Array:
        """Kernels in the dtype that they are used in: so less is gathered."""
        return param.astype(self.dtype) if param.ndim > 1 else param
