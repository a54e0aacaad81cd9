"""A loss on groups of patches that the target finds alike: their means are compared."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.reconstruction import smooth_l1
from hpm_jax.losses.spread import visible_tokens
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import AnyArray, Mask, unit_length


@register("morphed_tokens")
class MorphedTokens(Term):
    """The mean prediction of similar patches against their mean target (DTM, Kim et al. 2024).

    At each of `levels` levels, patches are merged in up to `rounds` rounds by the cosines of their
    targets (ToMe, Bolya et al. 2023); how many and in how many rounds is drawn for each step. Every
    patch then has the mean of its group, of predictions and of targets, compared by smooth L1.
    Visible patches are predicted by a linear head on the encoder's features; DTM's student has mask
    tokens in its encoder, and one head for all.
    """

    levels: int = positive(2, "number of groupings in each step, averaged", high=64)
    rounds: int = positive(14, "largest number of rounds of merging", high=1000)
    beta: float = option(2.0, "difference up to which the loss is quadratic", above=0, high=1e6)

    of_hidden: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """Checks that every hidden patch is predicted."""
        if config.mask.some_count:
            raise ConfigError(
                f"config.losses has {str(self)!r}, which compares all patches, and "
                f"config.mask.counted = {config.mask.counted} leaves some out: set it to 1"
            )

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the head of visible patches."""
        return init_perceptron(key, (setting.width, setting.target_width))

    def step_flops(self, setting: Setting) -> float:
        """Those of the head; merging costs little."""
        return 3 * setting.visible * perceptron_flops((setting.width, setting.target_width))

    def draw(self, key: Array, mask: Mask) -> Float32[Array, "B levels 2"]:
        """Returns uniform numbers of merges and of rounds, the same for each image."""
        drawn = jax.random.uniform(key, (self.levels, 2))
        return jnp.broadcast_to(drawn, (mask.hide.shape[0], *drawn.shape))

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the mean over levels and patches."""
        mask, target = outputs.mask, outputs.whole_target
        length, rows = target.shape[1], jnp.arange(target.shape[0])[:, None]
        visible = perceptron(outputs.own.params, visible_tokens(outputs))
        predicted = jnp.zeros(target.shape, jnp.float32).at[rows, mask.keep].set(visible)
        predicted = predicted.at[rows, mask.hide].set(outputs.values)
        total: Array = jnp.zeros((), jnp.float32)
        for level in range(self.levels):
            merges, rounds = outputs.own.drawn[0, level]
            rounds = 1 + jnp.floor(rounds * self.rounds).astype(jnp.int32)
            merges = jnp.floor(merges * (length + 1))
            each = jnp.round(merges / rounds.astype(jnp.float32)).astype(jnp.int32)
            groups = merged(target, each, rounds)
            means = of_groups(predicted, groups), of_groups(target, groups)
            total += smooth_l1(*means, self.beta).mean()
        return total / self.levels, {}


def merged(
    features: Float[AnyArray, "B L D"], each: Int[AnyArray, ""], rounds: Int[AnyArray, ""]
) -> Int[Array, "B L"]:
    """Returns the group of each patch, named by one of its members (bipartite soft matching).

    In each round, groups are dealt in turn to two sides; each group of the first side finds the
    most similar one of the second, and the `each` most similar pairs merge, at most half of all
    groups. Shapes do not depend on the two numbers, which may be traced.
    """
    batch, length, _ = features.shape
    names = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))

    def merge(_: Any, groups: Array) -> Array:
        member = jax.nn.one_hot(groups, length, dtype=jnp.float32)
        there = member.sum(axis=1) > 0
        mean = unit_length(jnp.einsum("blg,bld->bgd", member, features, precision="highest"))
        turn = jnp.cumsum(there, axis=1, dtype=jnp.int32) - 1
        first, second = there & (turn % 2 == 0), there & (turn % 2 == 1)
        cosine = jnp.einsum("bgd,bhd->bgh", mean, mean, precision="highest")
        cosine = jnp.where(first[:, :, None] & second[:, None], cosine, -jnp.inf)
        best = cosine.max(axis=2)
        most = jnp.minimum(each, there.sum(axis=1, keepdims=True, dtype=jnp.int32) // 2)
        place = jnp.argsort(jnp.argsort(-best, axis=1), axis=1).astype(jnp.int32)
        moves = jnp.isfinite(best) & (place < most)
        goal = jnp.where(moves, cosine.argmax(axis=2).astype(jnp.int32), names)
        return jnp.take_along_axis(goal, groups, axis=1)

    return jax.lax.fori_loop(0, rounds, merge, names)


def of_groups(
    values: Float[AnyArray, "B L D"], groups: Int[AnyArray, "B L"]
) -> Float[Array, "B L D"]:
    """Returns at each patch the mean of its group."""
    member = jax.nn.one_hot(groups, groups.shape[1], dtype=jnp.float32)
    total = jnp.einsum("blg,bld->bgd", member, values, precision="highest")
    mean = total / jnp.maximum(member.sum(axis=1), 1.0)[..., None]
    return jnp.take_along_axis(mean, groups[..., None], axis=1)
