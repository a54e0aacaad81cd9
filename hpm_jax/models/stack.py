"""A scanned stack of transformer blocks, which compiles equally fast at any depth."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.models.attention import Rotation
from hpm_jax.models.layers import Block, layer_norm
from hpm_jax.models.relative import Relative

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
