"""Clusters of the teacher's features as a target, found while training."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray, unit_length


@register("online_clusters")
class OnlineClusters(Target):
    """Soft clusters of the teacher's features (CAPI, Darcet et al. 2025, arXiv 2502.08769).

    A linear head gives each feature of length 1 a logit for each cluster. Sinkhorn iterations turn
    the logits into assignments under which, at each position, all clusters are used equally often
    in the batch; with gradient accumulation the batch is one part. So the target of an image
    depends on the other images. The term `clustering` trains the head. CAPI gives it an optimizer
    of its own with half the learning rate; here there is one optimizer.
    """

    clusters: int = positive(16384, "number of clusters", high=2**20)
    temperature: float = option(0.06, "divisor of the logits", low=1e-3, high=1e3)
    iterations: int = option(3, "number of Sinkhorn iterations", low=1, high=1000)

    reads: ClassVar = ("features",)
    distribution: ClassVar[bool] = True

    def check(self, config: Any) -> None:
        """The head has to be trained."""
        if not any(term.name == "clustering" for term in config.terms):
            raise ConfigError(
                f"config.target = {str(self)!r} has a head that no term of config.losses = "
                f"{tuple(map(str, config.losses))} trains: add 'clustering' to config.losses"
            )

    def width(self, setting: Setting) -> int:
        """The number of clusters."""
        return self.clusters

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the head, from a normal distribution of deviation 0.02, as tokens are."""
        shape = (setting.features_width or setting.width, self.clusters)
        return {
            "kernel": 0.02 * jax.random.normal(key, shape),
            "bias": jnp.zeros(self.clusters, jnp.float32),
        }

    def step_flops(self, setting: Setting) -> float:
        """Those of the head's logits."""
        return 2.0 * setting.patches * (setting.features_width or setting.width) * self.clusters

    def __call__(self, context: TargetContext) -> Float[Array, "B L clusters"]:
        """Shares of the clusters."""
        logits = cluster_logits(context.params, context.readings["features"])
        return assignments(logits / self.temperature, self.iterations)


def cluster_logits(
    params: dict[str, Array], features: Float[AnyArray, "B L D"]
) -> Float[Array, "B L clusters"]:
    """Returns a linear map of features of length 1."""
    return unit_length(features) @ params["kernel"] + params["bias"]


def assignments(
    logits: Float[AnyArray, "B L clusters"], iterations: int
) -> Float[Array, "B L clusters"]:
    """Returns shares of the clusters, by Sinkhorn iterations at each position.

    Each iteration scales `exp(logits)` so that every cluster has the same mass over the batch, and
    then so that every image has the mass 1. Logarithms keep small shares from underflow.
    """

    def iterate(_: Any, x: Array) -> Array:
        x = x - jax.nn.logsumexp(x, axis=0, keepdims=True)
        return x - jax.nn.logsumexp(x, axis=2, keepdims=True)

    return jnp.exp(jax.lax.fori_loop(0, iterations, iterate, jnp.asarray(logits)))
