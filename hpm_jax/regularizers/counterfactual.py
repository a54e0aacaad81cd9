"""Masked counterfactuals: features of mixed-up images stay those of the pre-trained encoder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.models import Classifier
from hpm_jax.plugs import register
from hpm_jax.regularizers.regularizer import Inputs, Regularizer


@register("counterfactual")
class Counterfactual(Regularizer):
    """Distance of features to the frozen pre-trained ones, on images with replaced patches.

    A random share of the patches is replaced by those of another image of the batch at the same
    places: the random mask and the single filling of Xiao et al. 2023, section 3.
    """

    forward_passes = 4.0  # forward and backward, and a forward pass of the frozen encoder

    weight: float = option(30.0, "weight of the term in the loss", low=0, high=1e6)
    ratio: float = option(0.5, "probability that a patch is replaced", above=0, below=1)

    def check(self, config: Any) -> None:
        """There have to be pre-trained weights, and another image."""
        if config.weights == "random":
            raise ConfigError(
                f"config.regularize.terms has {str(self)!r}, which keeps features near the "
                "pre-trained ones, and config.weights = 'random': --config.weights=student"
            )
        if config.optimizer.batch_size * config.data.clips == 1:
            raise ConfigError(
                f"config.regularize.terms has {str(self)!r}, which takes patches of another image, "
                "and config.optimizer.batch_size = 1: at least 2"
            )

    def draw_for(self, key: Array, patches: Array) -> Array:
        """The images with replaced patches, `[B, L, P]`."""
        replaced = jax.random.bernoulli(key, self.ratio, patches.shape[:2])
        return jnp.where(replaced[..., None], jnp.roll(patches, 1, axis=0), patches)

    def freeze(self, start: Any) -> Any:
        """The encoder, and the norm after pooling as a new classifier has it."""
        width = start["encoder"]["patch_embedding"]["projection"]["kernel"].shape[-1]
        norm = {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
        return {"encoder": start["encoder"], "norm": start.get("norm", norm)}

    def __call__(self, model: Classifier, params: Any, inputs: Inputs) -> Array:
        """The mean squared difference of the features."""

        def features(params):
            return model.apply({"params": params}, inputs.drawn, method="features")

        return jnp.mean(jnp.square(features(params) - features(inputs.frozen)))
