"""The pre-norm transformer block, and a stack of them: scanned, so depth costs no compile time."""

import functools
from collections.abc import Callable
from typing import Any

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


def layer_norm(dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """Layer normalisation with the eps of MAE, 1e-6; flax keeps its statistics in float32."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


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

    @nn.compact
    def __call__(self, x: Array, drop: Array | None = None, read: int | None = None) -> Array:
        """Tokens `[B, N, D]` to the last `read` of them, or all, `[B, read, D]`.

        Tokens that nobody reads are only keys and values of the last block, and go no further.
        `drop` `[B, depth, 2]` is from `drop_paths`.
        """
        block = Block(self.heads, self.dtype, self.key_bias, self.attention, parent=None)
        start = jax.vmap(lambda key: block.init(key, x[:1])["params"])
        params = self.param("blocks", lambda key: start(jax.random.split(key, self.depth)))
        # one slice [2, B] a block
        each = params, None if drop is None else drop.transpose(1, 2, 0)

        def step(read):
            def step(x, one):
                params = self.gather(jax.tree.map(self._cast, one[0]))
                return block.apply({"params": params}, x, one[1], read), None

            return jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])

        short = read is not None and read < x.shape[1] and self.depth > 0
        whole = jax.tree.map(lambda one: one[: self.depth - short], each)
        x, _ = jax.lax.scan(step(x.shape[1]), x, whole, unroll=self.unroll)
        if short:
            x, _ = step(read)(x, jax.tree.map(lambda one: one[-1], each))
        return layer_norm(self.dtype, name="norm")(x) if self.norm else x

    def _cast(self, param: Array) -> Array:
        """Kernels in the dtype that they are used in: so less is gathered."""
        return param.astype(self.dtype) if param.ndim > 1 else param
