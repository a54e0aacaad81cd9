"""Masks by predicted losses: HPM, its ablations and variants; and random masks."""

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
        """Returns uniform scores `[B, U]`."""
        return uniform(key, context)


@register("hard")
class Hard(Shared):
    """Highest losses predicted by the teacher, the rest at random (HPM, section 3.3).

    `hard(start=0.5)` is "always hard"; `hard(start=0.5, end=0.0)` is "hard to easy".
    """

    reads: ClassVar = ("predicted_loss",)

    def difficulty(self, context: Context) -> Array:
        """Returns the losses predicted by the teacher."""
        return context.readings["teacher"]["predicted_loss"]


@register("easy")
class Easy(Hard):
    """Lowest losses predicted by the teacher, the rest at random (an ablation of HPM)."""

    def difficulty(self, context: Context) -> Array:
        """Returns the negative losses predicted by the teacher."""
        return -super().difficulty(context)


@register("self_hard")
class SelfHard(Shared):
    """Highest losses predicted by the student itself: HPM without a moving average."""

    reads: ClassVar = ("predicted_loss",)
    networks: ClassVar = ("student",)

    def difficulty(self, context: Context) -> Array:
        """Returns the losses predicted by the student."""
        return context.readings["student"]["predicted_loss"]


@register("reducible")
class Reducible(Shared):
    """Loss predicted by a slow teacher minus that by a fast one: patches with recent progress.

    Patches that cannot be learned have a high loss for both, and the difference cancels (after
    reducible holdout loss, Mindermann et al. 2022, with averages in place of a holdout model).
    """

    decay: float = share(0.9999, "decay of the slow teacher, a moving average of the student")

    reads: ClassVar = ("predicted_loss",)
    networks: ClassVar = ("teacher", "own")

    def difficulty(self, context: Context) -> Array:
        """Returns the slow teacher's predictions minus the fast teacher's."""
        slow, fast = context.readings["own"], context.readings["teacher"]
        return slow["predicted_loss"] - fast["predicted_loss"]

    def init_state(self, params: Any, setting: Setting) -> Any:
        """Returns the slow teacher's initial parameters: a copy of the student's."""
        return jax.tree.map(jnp.copy, params)

    def update_state(self, state: Any, params: Any, observed: Any) -> Any:
        """Returns the slow teacher after one step of its moving average."""
        return jax.tree.map(lambda old, new: old + (1 - self.decay) * (new - old), state, params)


@register("group_hard")
class GroupHard(Shared):
    """Highest running losses of groups of similar units: HPM without a loss predictor.

    A unit's group is given by the signs of fixed random projections of its pixels minus the image
    mean (a table of losses by content, after masking rates by part of speech, Yang et al. 2022).
    """

    bits: int = option(6, "number of projections; there are 2 ** bits groups", low=1, high=12)
    decay: float = share(0.99, "decay of the running loss of a group")

    def groups(self, patches: Array) -> Array:
        """Returns the group of each unit: `[B, U, P]` to int32 `[B, U]`."""
        rows = np.random.default_rng(0).standard_normal((patches.shape[-1], self.bits))
        values = patches - patches.mean(axis=(1, 2), keepdims=True)
        signs = (values @ jnp.asarray(rows, jnp.float32) > 0).astype(jnp.int32)
        return jnp.sum(signs << jnp.arange(self.bits, dtype=jnp.int32), axis=-1, dtype=jnp.int32)

    def difficulty(self, context: Context) -> Array:
        """Returns the running loss of each unit's group; a group without data counts as hard."""
        loss = jnp.where(context.state["weight"] > 0, context.state["loss"], jnp.inf)
        return loss[self.groups(context.patches)]

    def init_state(self, params: Any, setting: Setting) -> Any:
        """Returns a table without data."""
        nothing = jnp.zeros((2**self.bits,), jnp.float32)
        return {"loss": nothing, "weight": nothing}

    def observe(self, outputs: Any) -> Any:
        """Returns losses and counts of hidden units by group, summed, divided by batch size."""
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
        """Returns the running mean of each group, weighted by how often it was hidden."""
        weight = self.decay * state["weight"] + observed["weight"]
        total = self.decay * state["weight"] * state["loss"] + observed["loss"]
        return {"loss": total / jnp.maximum(weight, 1e-12), "weight": weight}
