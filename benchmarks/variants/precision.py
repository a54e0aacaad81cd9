"""Lower precision: parameters that are cast once, and another model for the teacher's pass."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.variants.restated import Params
from hpm_jax.models.decoders import Sizes


def cast_once(params: Params) -> Params:
    """Kernels and biases of linear layers in bfloat16, before any layer reads them."""

    def cast(path, leaf):
        keys = [part.key for part in path]
        linear = keys[-1] in ("kernel", "bias") and "norm" not in keys[-2].lower()
        return leaf.astype(jnp.bfloat16) if linear else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


class WithTeacher(NamedTuple):
    """A model whose teacher's pass is another model's."""

    student: Any
    teacher: Any

    @property
    def grid(self) -> tuple[int, int, int]:
        """The grid of patches."""
        return self.student.grid

    @property
    def decoder_sizes(self) -> Sizes:
        """The facts that decoders are built from."""
        return self.student.decoder_sizes

    def apply(self, variables: Params, *arguments: Any, **keywords: Any) -> Any:
        """As `MaskedAutoencoder.apply`."""
        model = self.teacher if keywords.get("method") in ("read", "predict_loss") else self.student
        return model.apply(variables, *arguments, **keywords)


def agreement(reference: Array, other: Array, count: int) -> Array:
    """The share of the `count` patches with the highest predicted loss that both agree on.

    Args:
        reference, other: predicted losses `[B, L]`.
    """
    hardest = [jnp.argsort(x, axis=1)[:, -count:] for x in (reference, other)]
    return jnp.mean((hardest[0][:, :, None] == hardest[1][:, None, :]).any(axis=2))
