"""Clusters of the teacher's features as a target, found while training."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.plugs import OwnOptimizer, Setting, register
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray, unit_length


@register("online_clusters")
class OnlineClusters(Target):
    """Soft clusters of the teacher's features (CAPI, Darcet et al. 2025, arXiv 2502.08769).

    A linear head gives each feature of length 1 a logit for each cluster. Sinkhorn iterations turn
    the logits into assignments under which, at each position, all clusters are used equally often
    in the batch; with gradient accumulation the batch is one part. So the target of an image
    depends on the other images. The term `clustering` trains the head, by an AdamW of its own with
    half the run's learning rate and schedule.
    """

    clusters: int = positive(16384, "number of clusters", high=2**20)
    temperature: float = option(0.06, "divisor of the logits", low=1e-3, high=1e3)
    iterations: int = option(3, "number of Sinkhorn iterations", low=1, high=1000)
    rate: float = option(0.5, "learning rate of the head over that of the run", low=0, high=1e3)
    weight_decay: float = option(0.01, "weight decay of the head", low=0, high=1e3)
    b1: float = option(0.9, "decay rate of Adam's first moment of the head", low=0, below=1)
    b2: float = option(0.95, "decay rate of Adam's second moment of the head", low=0, below=1)

    reads: ClassVar = ("features",)
    distribution: ClassVar[bool] = True

    @property
    def optimizer(self) -> OwnOptimizer:  # type: ignore[override]
        """AdamW of the head."""
        return OwnOptimizer(self.rate, self.b1, self.b2, self.weight_decay)

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
