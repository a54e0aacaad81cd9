"""Features as a target: what a network computes of each patch while it sees the whole image."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray, unit_length

NORMALIZATIONS = ("l2", "layer_norm", "none")


@register("teacher_features")
class TeacherFeatures(Target):
    """Patch features of the run's own teacher, which sees the whole image (HPM, table 1: EMA).

    The official target is `teacher_features` with the objective `cosine`: the encoder's output
    after its last norm, compared by `2 - 2 cos` (`models_mae_learn_feature_loss.py`). With
    `normalize="layer_norm"` and `smooth_l1(beta=2.0)` the comparison is that of dBOT.
    """

    block: int = option(
        -1,
        "the encoder's block, from 1, or from the end; -1 is the last, after the norm that follows",
        low=-(10**4),
        high=10**4,
    )
    normalize: str = option(
        "l2",
        "of the features of each patch: to length 1, to mean 0 and variance 1, or none",
        choices=NORMALIZATIONS,
    )

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """One output of the teacher."""
        return ("features",) if self.block == -1 else (f"block_{self.block}",)

    def check(self, config: Any) -> None:
        """The block has to be there."""
        depth = config.teacher.depth(config)
        where = "config.model.depth" if depth == config.model.depth else "of config.teacher"
        if not 1 <= (self.block if self.block > 0 else depth + 1 + self.block) <= depth:
            raise ConfigError(
                f"config.target = {str(self)!r}: the encoder has {depth} blocks "
                f"({where}), so block is from 1 to {depth}, or from -{depth} to -1"
            )

    def width(self, setting: Setting) -> int:
        """That of the teacher's encoder."""
        return setting.features_width or setting.width

    def __call__(self, context: TargetContext) -> Float[Array, "B L D"]:
        """`[B, L, width]`."""
        return normalized(context.readings[self.reads[0]], self.normalize)


def normalized(features: Float[AnyArray, "B L D"], how: str) -> Float[Array, "B L D"]:
    """Features of each patch `[B, L, D]` by a name in `NORMALIZATIONS`.

    "l2" divides by the length, at least 1e-12; "layer_norm" is a layer norm without scale and
    shift, epsilon 1e-6.
    """
    if how == "l2":
        return unit_length(features)
    if how == "layer_norm":
        centred = features - features.mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
    return jnp.asarray(features)
