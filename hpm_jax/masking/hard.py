"""Masks by predicted losses: HPM's, and its relatives."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.fields import option, share
from hpm_jax.masking.strategy import Context, Shared, Strategy, uniform
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import gather


@register("random")
class Random(Strategy):
    """Every subset of units is equally likely (MAE, He et al. 2021)."""

    def scores(self, key: Array, context: Context) -> Array:
        """Uniform."""
        return uniform(key, context)


@register("hard")
class Hard(Shared):
    """The highest predicted losses of the teacher, the rest at random (HPM, section 3.3).

    Always hard is `hard(start=0.5)`, hard to easy `hard(start=0.5, end=0.0)`.
    """

    reads: ClassVar = ("predicted_loss",)

    def difficulty(self, context: Context) -> Array:
        """What the teacher predicts."""
        return context.seen["teacher"]["predicted_loss"]


@register("easy")
class Easy(Hard):
    """The lowest predicted losses of the teacher, the rest at random (an ablation of HPM)."""

    def difficulty(self, context: Context) -> Array:
        """The less the teacher predicts, the sooner hidden."""
        return -super().difficulty(context)


@register("self_hard")
class SelfHard(Shared):
    """The highest losses that the student itself predicts: HPM without a moving average."""

    reads: ClassVar = ("predicted_loss",)
    onlookers: ClassVar = ("student",)

    def difficulty(self, context: Context) -> Array:
        """What the student predicts."""
        return context.seen["student"]["predicted_loss"]


@register("reducible")
class Reducible(Shared):
    """What a slow teacher expects less what a fast one expects: what has lately been learnt.

    Patches that nobody can learn have a high loss for both, and the difference cancels (after
    reducible holdout loss, Mindermann et al. 2022, with averages in place of a holdout model).
    """

    decay: float = share(0.9999, "of the slow teacher, a moving average of the student")

    reads: ClassVar = ("predicted_loss",)
    onlookers: ClassVar = ("teacher", "own")

    def difficulty(self, context: Context) -> Array:
        """Slow less fast."""
        slow, fast = context.seen["own"], context.seen["teacher"]
        return slow["predicted_loss"] - fast["predicted_loss"]

    def init_state(self, params: Any, setting: Setting) -> Any:
        """The slow teacher starts as the student does."""
        return jax.tree.map(jnp.copy, params)

    def update_state(self, state: Any, params: Any, observed: Any) -> Any:
        """The slow teacher moves."""
        return jax.tree.map(lambda old, new: old + (1 - self.decay) * (new - old), state, params)


@register("group_hard")
class GroupHard(Shared):
    """The running loss of the group that a unit belongs to: HPM without a loss predictor.

    Groups are the signs of some fixed random projections of the unit's pixels, each image's mean
    taken off (a table of losses by content, after masking rates by part of speech, Yang et al.
    2022).
    """

    bits: int = option(6, "there are 2 ** bits groups", low=1, high=12)
    decay: float = share(0.99, "of the running loss of a group")

    def groups(self, patches: Array) -> Array:
        """The group of each unit: `[B, U, P]` to int32 `[B, U]`."""
        rows = np.random.default_rng(0).standard_normal((patches.shape[-1], self.bits))
        values = patches - patches.mean(axis=(1, 2), keepdims=True)
        signs = (values @ jnp.asarray(rows, jnp.float32) > 0).astype(jnp.int32)
        return jnp.sum(signs << jnp.arange(self.bits, dtype=jnp.int32), axis=-1, dtype=jnp.int32)

    def difficulty(self, context: Context) -> Array:
        """The group's running loss; a group not met yet counts as hard."""
        loss = jnp.where(context.state["weight"] > 0, context.state["loss"], jnp.inf)
        return loss[self.groups(context.patches)]

    def init_state(self, params: Any, setting: Setting) -> Any:
        """No group has been met."""
        nothing = jnp.zeros((2**self.bits,), jnp.float32)
        return {"loss": nothing, "weight": nothing}

    def observe(self, outputs: Any) -> Any:
        """Sums by group of losses and counts of the hidden units, over the batch's size."""
        unit, mask = outputs.unit, outputs.mask
        groups = self.groups(unit.merge(outputs.patches))
        groups = jnp.tile(groups, unit.size)  # of every patch of a unit
        groups = gather(groups[..., None], mask.hide)[..., 0]
        member = jax.nn.one_hot(groups, 2**self.bits)  # [B, M, groups]
        if mask.counted is not None:
            member = member * mask.counted.astype(jnp.float32)[..., None]
        loss = jnp.einsum("bm,bmg->g", jax.lax.stop_gradient(outputs.losses), member)
        return {"loss": loss / len(member), "weight": member.sum(axis=(0, 1)) / len(member)}

    def update_state(self, state: Any, params: Any, observed: Any) -> Any:
        """A running mean for each group, weighted by how often it was hidden."""
        weight = self.decay * state["weight"] + observed["weight"]
        total = self.decay * state["weight"] * state["loss"] + observed["loss"]
        return {"loss": total / jnp.maximum(weight, 1e-12), "weight": weight}


