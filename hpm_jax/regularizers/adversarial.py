"""Virtual adversarial training: predictions that hold under the worst small perturbation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import positive
from hpm_jax.models import Classifier
from hpm_jax.plugs import register
from hpm_jax.regularizers.regularizer import Inputs, Regularizer


@register("virtual_adversarial", "vat")
class VirtualAdversarial(Regularizer):
    """`KL(p(x) || p(x + r))` for the worst small r (VAT, Miyato et al. 2018, section 3).

    The direction of r is the gradient of the divergence at a random perturbation: one step of the
    power method. Perturbations are of normalised pixels, and their sizes are root mean squares, so
    that they do not depend on the resolution; the paper gives the length of the vector.
    """

    forward_passes = 6.0  # forward and backward for the direction, and for the loss

    size: float = positive(0.1, "root mean square of the perturbation r", high=1e3)
    probe: float = positive(1e-2, "root mean square of the random perturbation", high=1e3)

    def check(self, config: Any) -> None:
        """There has to be one class of each image."""
        if config.labels == "many":
            raise ConfigError(
                f"config.regularize.terms has {str(self)!r}, which perturbs a distribution over "
                "classes, and config.labels = 'many': leave it out"
            )

    def draw_for(self, key: Array, patches: Array) -> Array:
        """Normal noise `[B, L, P]`."""
        return jax.random.normal(key, patches.shape, patches.dtype)

    def __call__(self, model: Classifier, params: Any, inputs: Inputs) -> Array:
        """The mean divergence; no gradient flows through p(x) and r."""
        fixed = jax.lax.stop_gradient(inputs.logits)
        log_fixed = jax.nn.log_softmax(fixed)

        def divergence(perturbation, params):
            logits = model.apply({"params": params}, inputs.patches + perturbation)
            change = jnp.exp(log_fixed) * (log_fixed - jax.nn.log_softmax(logits))
            return change.sum(axis=-1).mean()

        start = self.probe * of_unit_size(inputs.drawn)
        gradient = jax.grad(divergence)(start, jax.lax.stop_gradient(params))
        worst = self.size * of_unit_size(jax.lax.stop_gradient(gradient))
        return divergence(worst, params)


def of_unit_size(perturbation: Array) -> Array:
    """Each image of `[B, L, P]` over its root mean square; zeros stay zeros."""
    largest = jnp.max(jnp.abs(perturbation), axis=(1, 2), keepdims=True)
    scaled = perturbation / jnp.where(largest > 0, largest, 1.0)  # squares do not underflow
    square = jnp.mean(jnp.square(scaled), axis=(1, 2), keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(largest > 0, square, 1.0))
