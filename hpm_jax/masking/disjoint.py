"""Masks whose views of one image show disjoint parts of it."""

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.masking.frames import ranks
from hpm_jax.masking.strategy import Context, Strategy
from hpm_jax.plugs import register


@register("disjoint")
class Disjoint(Strategy):
    """Views of one image show disjoint sets of units (DMJD, Ma et al. 2022).

    Each image has one uniform order of its U units. With K visible units, view v shows the ranks
    from `v * K` to `(v + 1) * K`, modulo U: if the views together show more than U units, the
    order starts again. A single view is a random mask. DMJD draws blocks of 2 x 2 patches and
    shares a permutation in the batch; here each image has its own order of single units.
    """

    def scores(self, key: Array, context: Context) -> Array:
        """Returns ranks counted from the first unit that a view shows; `views` rows per image."""
        batch, units = context.shape
        shown = units - context.hidden
        order = ranks(jax.random.uniform(key, (batch // context.views, units)))
        first = shown * jnp.arange(context.views, dtype=jnp.float32)[:, None]
        return ((order[:, None] - first) % units).reshape(batch, units)
