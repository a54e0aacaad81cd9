"""A loss on what the student sees: its features of visible patches predict their targets."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.fields import option
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.reconstruction import smooth_l1
from hpm_jax.losses.spread import visible_tokens
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import AnyArray, Grid, gather


@register("visible")
class Visible(Term):
    """The target of visible patches, predicted by a head on the encoder's features.

    V-JEPA 2.1 (Mur-Labadia et al. 2026) weighs each visible token by its distance to the nearest
    hidden one, `weight / sqrt(distance)`, and compares by L1; there the predictor is the head.
    `visible(power=0.0, beta=2.0, layers=3)` is the visible branch of DMJD (Ma et al. 2023).
    """

    power: float = option(
        0.5, "a patch at a distance d, in patches, has the weight d ** -power", low=0, high=100
    )
    beta: float = option(
        0.0, "difference up to which the loss is quadratic (smooth L1); 0 for L1", low=0, high=1e6
    )
    layers: int = option(1, "number of hidden layers of the head", low=0, high=100)

    def widths(self, setting: Setting) -> tuple[int, ...]:
        """Widths of the layers of the head, which is as wide as the encoder."""
        return (setting.width,) * (self.layers + 1) + (setting.target_width,)

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the head."""
        return init_perceptron(key, self.widths(setting))

    def step_flops(self, setting: Setting) -> float:
        """Those of the head on the visible patches."""
        return 3 * setting.visible * perceptron_flops(self.widths(setting))

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the weighted mean over visible patches; weights are not normalised."""
        mask = outputs.mask
        predicted = perceptron(outputs.own.params, visible_tokens(outputs))
        error = smooth_l1(predicted, gather(outputs.whole_target, mask.keep), self.beta)
        distance = distance_to_hidden(mask.keep, mask.hide, outputs.unit.grid)
        return jnp.mean(distance**-self.power * error.mean(axis=-1)), {}


def distance_to_hidden(
    keep: Int[AnyArray, "B K"], hide: Int[AnyArray, "B M"], grid: Grid
) -> Float[Array, "B K"]:
    """Returns the Euclidean distance on the grid to the nearest hidden patch, at least 1."""
    places = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), axis=1).astype(np.int32)
    table = jnp.asarray(places)
    apart = table[keep][:, :, None] - table[hide][:, None]
    nearest = jnp.square(apart).sum(axis=-1).min(axis=-1).astype(jnp.float32)
    # a patch may be in both, where the mask ratio moves
    return jnp.sqrt(jnp.maximum(nearest, 1.0))
