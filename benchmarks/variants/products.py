"""The products of tokens and kernels that other platforms than CPUs have."""

from typing import Any, NamedTuple

from benchmarks.variants.restated import Params
from hpm_jax.models.compiled_for import compiling_for


class AsElsewhere(NamedTuple):
    """A model that is traced on a CPU as for a GPU without cuDNN's attention."""

    model: Any

    def __getattr__(self, name: str) -> Any:
        """The facts of the model."""
        return getattr(self.model, name)

    def apply(self, variables: Params, *arguments: Any, **keywords: Any) -> Any:
        """As `MaskedAutoencoder.apply`."""
        with compiling_for("gpu"):
            return self.model.apply(variables, *arguments, **keywords)
