"""Measures reconstruction and ranking of hidden patches, under fixed random masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.losses.ranking import pairs_ranked_correctly
from hpm_jax.losses.term import Outputs
from hpm_jax.step.mask import make_mask
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import AT_RANDOM
from hpm_jax.step.state import TrainState
from hpm_jax.tokens import Mask, gather


def fixed_key(first: Array | int) -> Array:
    """Returns the key of the images from number `first` on: the same for every run."""
    return jax.random.fold_in(jax.random.key(0), first)


def fixed_mask(method: Method, state: TrainState, patches: Array, first: Array | int) -> Mask:
    """Returns random masks of these images, the same for every mask strategy and seed."""
    return make_mask(method.at_random, state, patches, fixed_key(first), AT_RANDOM, {})


def moments(method: Method, patches: Array, outputs: Outputs) -> dict[str, Array]:
    """Returns the inputs of `summarize` for a batch of patches `[B, L, P]` and the outputs."""
    target = outputs.target
    hidden = gather(patches, outputs.mask.hide)
    found = {
        "held_out": outputs.losses.mean(),
        "contrast": pairs_ranked_correctly(hidden.std(axis=-1), outputs.losses),
    }
    if method.predicts_values:
        found["error"] = jnp.square(outputs.values - target).mean()
        found |= {"sum": target.mean(axis=(0, 1)), "square": jnp.square(target).mean()}
    if outputs.predicted is not None:
        found["ranking"] = pairs_ranked_correctly(outputs.predicted, outputs.losses)
    return found


def summarize(batches: list[dict[str, Array]]) -> dict[str, float]:
    """Computes metrics from the moments of whole batches.

    `held_out` is the mean loss of the objective. `explained` is the fraction of the target's
    variance that the prediction explains, at most 1, where it has values. `ranking` is the ranking
    accuracy of the loss predictor, and `contrast` that of the standard deviation of the patch's
    pixels as a predictor.
    """
    mean = {name: np.mean([np.asarray(x[name]) for x in batches], axis=0) for name in batches[0]}
    numbers: dict[str, Any] = {
        name: mean[name] for name in ("held_out", "contrast", "ranking") if name in mean
    }
    if "error" in mean:
        variance = mean["square"] - np.square(mean["sum"]).mean()
        numbers["explained"] = 1 - mean["error"] / variance
    return {name: float(value) for name, value in numbers.items()}
