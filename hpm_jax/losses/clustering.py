"""The loss of the head that assigns the teacher's features to clusters."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.clusters import cluster_logits


@register("clustering")
class Clustering(Term):
    """Cross-entropy of the head of `online_clusters` to its own assignments (CAPI).

    No gradient reaches the teacher or the student: the term trains the head alone, on every patch.
    """

    temperature: float = option(0.12, "divisor of the logits", low=1e-3, high=1e3)

    reads: ClassVar = ("features",)
    arrays_of: ClassVar[str] = "target"

    def check(self, config: Any) -> None:
        """Checks that the target has such a head."""
        if config.target.name != "online_clusters":
            raise ConfigError(
                f"config.losses has {str(self)!r}, which trains the head of the target "
                f"online_clusters, and config.target = {str(config.target)!r}"
            )

    def step_flops(self, setting: Setting) -> float:
        """Those of the head's gradient; the target computes its logits."""
        width = setting.features_width or setting.width
        return 2.0 * setting.patches * width * setting.target_width

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the loss, and how many clusters the assignments use: exp of their entropy."""
        logits = cluster_logits(outputs.own.params, outputs.readings["features"])
        share = outputs.whole_target
        log_share = jax.nn.log_softmax(logits / self.temperature, axis=-1)
        mean = share.mean(axis=(0, 1))
        used = jnp.exp(-jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-30))))
        return -jnp.sum(share * log_share, axis=-1).mean(), {"clusters_used": used}
