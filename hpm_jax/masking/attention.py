"""Masks by the teacher's encoder: its attention, or clusters of its features."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.fields import option, share
from hpm_jax.masking.strategy import Context, Shared, hardest, uniform
from hpm_jax.plugs import register


@register("attention")
class Attention(Shared):
    """Units with the highest, or lowest, attention of the teacher's cls token.

    `attention` hides the most attended units (AttMask, Kakogeorgiou et al. 2022). With
    `attention(high=False, noise=1.0)` the visible units are drawn without replacement, in
    proportion to the attention (MaskAlign, Xue et al. 2023): Gumbel noise on its logarithm.
    """

    start: float = share(1.0, "fraction of the hidden units chosen by attention, at the start")
    end: float = share(1.0, "fraction of the hidden units chosen by attention, at the end")
    high: bool = option(True, "whether high attention is hidden, rather than low")
    noise: float = option(
        0.0,
        "scale of Gumbel noise on the log attention: 1 draws in proportion, 0 is deterministic",
        low=0,
        high=1e6,
    )

    reads: ClassVar = ("attention",)

    def difficulty(self, context: Context) -> Array:
        """Returns the log attention, or its negative."""
        return self._signed(self._log_attention(context))

    def hard(self, context: Context) -> Array:
        """Returns the units that are certainly hidden: none if they are drawn with noise."""
        return jnp.zeros(context.shape, bool) if self.noise else super().hard(context)

    def scores(self, key: Array, context: Context) -> Array:
        """Returns scores above 1 for chosen units, uniform scores below 1 for the rest."""
        if not self.noise:
            return super().scores(key, context)
        gumbel_key, rest_key = jax.random.split(key)
        gumbel = self.noise * jax.random.gumbel(gumbel_key, context.shape)
        difficulty = self._signed(self._log_attention(context) + gumbel)
        rest = uniform(rest_key, context)
        return jnp.where(hardest(difficulty, context.n_hard), 1.0 + rest, rest)

    def _log_attention(self, context: Context) -> Array:
        attention = context.readings["teacher"]["attention"].astype(jnp.float32)
        return jnp.log(jnp.maximum(attention, 1e-12))

    def _signed(self, values: Array) -> Array:
        return values if self.high else -values


@register("self_guided")
class SelfGuided(Shared):
    """Units that resemble the object, by clustering the teacher's features.

    Self-Guided MAE (Shin et al. 2024) cuts the graph of similar units in two and hides the side of
    the object. The fraction of chosen units grows from `start` to `end`, as in HPM; the paper
    changes from random to guided masks once, early in training.
    """

    start: float = share(0.0, "fraction of the hidden units chosen by similarity, at the start")
    end: float = share(1.0, "fraction of the hidden units chosen by similarity, at the end")
    iterations: int = option(50, "number of power iterations", low=1, high=1000)

    reads: ClassVar = ("features",)

    def difficulty(self, context: Context) -> Array:
        """Returns the mean cosine similarity to the units of the object, `[B, U]`."""
        features = context.readings["teacher"]["features"].astype(jnp.float32)
        length = jnp.linalg.norm(features, axis=-1, keepdims=True)
        features = features / jnp.maximum(length, 1e-6)
        member = object_side(normalized_cut(features, self.iterations)).astype(jnp.float32)
        total = jnp.einsum("bu,bud->bd", member, features, precision="highest")
        mean = total / jnp.maximum(member.sum(axis=1, keepdims=True), 1.0)
        return jnp.einsum("bud,bd->bu", features, mean, precision="highest")


def normalized_cut(features: Array, iterations: int) -> Array:
    """Computes the relaxed normalised cut (Shi and Malik 2000) of unit vectors: `[B, U]`.

    This is the second generalised eigenvector of `(D - W) x = lambda D x`, with the affinity
    `W = relu(F F^T)` and its row sums D; its sign is arbitrary. `y = D^(1/2) x` is the second
    eigenvector of `N = D^(-1/2) W D^(-1/2)`, whose first one, `D^(1/2) 1`, is known and projected
    out. The power iteration on `(N + 1) / 2`, which has no negative eigenvalue, finds it.
    """
    affinity = jax.nn.relu(jnp.einsum("bud,bvd->buv", features, features, precision="highest"))
    root = jnp.sqrt(jnp.maximum(affinity.sum(axis=-1), 1e-6))  # D^(1/2), [B, U]
    affinity = affinity / (root[:, :, None] * root[:, None])
    first = _unit(root)

    def iterate(_, vector):
        step = jnp.einsum("buv,bv->bu", affinity, vector, precision="highest")
        vector = step + vector
        return _unit(vector - first * jnp.sum(first * vector, axis=1, keepdims=True))

    noise = np.random.default_rng(0).standard_normal(features.shape[1])
    start = jnp.broadcast_to(jnp.asarray(noise, jnp.float32), root.shape)
    return jax.lax.fori_loop(0, iterations, iterate, start) / root


def object_side(cut: Array) -> Array:
    """Returns the units of the object, `[B, U]` bool: the side with the largest absolute entry.

    The sides are those above and below the mean (TokenCut, Wang et al. 2022).
    """
    largest = jnp.argmax(jnp.abs(cut), axis=1, keepdims=True)
    cut = cut * jnp.sign(jnp.take_along_axis(cut, largest, axis=1))
    return cut >= cut.mean(axis=1, keepdims=True)


def _unit(vector: Array) -> Array:
    length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / jnp.maximum(length, 1e-12)
