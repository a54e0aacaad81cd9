"""Pixels without the directions in which patches vary most."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.fields import option
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.fitted import check_values, read_array
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray


@register("low_variance_pixels")
class LowVariancePixels(Target):
    """Patches projected on the principal components of low variance (Balestriero & LeCun 2024).

    "Learning by reconstruction produces uninformative features for perception": the directions that
    hold most variance tell little about classes. A file has the principal components of the patches
    of training images (`python -m hpm_jax.targets pca`); the first ones, which together hold the
    share `drop` of the variance, are projected out.
    """

    path: str = option("", "a .npz file with `components` and `variances` of patches")
    drop: float = option(
        0.9, "share of the variance, of the first components, that is left out", low=0, below=1
    )
    scale: bool = option(True, "whether the target is divided by the deviation that is left")

    picture_like: ClassVar[bool] = True
    note: ClassVar[str] = (
        "rebuilt: visible patches are pasted; hidden ones get their directions of high variance "
        "from the true patch, since the target has none"
    )

    def _name(self) -> str:
        return f"config.target = {str(self)!r}"

    def check(self, config: Any) -> None:
        """The file has to be there, and its components to be as long as a patch."""
        components = read_array(self.path, "components", self._name())
        check_values(components, config.setting.tokenizer.values, self._name(), "a patch has")

    def load(self, setting: Setting) -> Any:
        """The first components `[C, P]`, and the deviation without them `[]`."""
        components = read_array(self.path, "components", self._name())
        variances = read_array(self.path, "variances", self._name())[0]
        count = dropped(variances, self.drop)
        left = np.sqrt(variances[count:].sum() / len(variances)) if self.scale else 1.0
        return {"components": components[:count], "deviation": np.float32(max(left, 1e-6))}

    def __call__(self, context: TargetContext) -> Float[Array, "B L P"]:
        """`(x - C^T C x) / deviation`, `[B, L, P]`."""
        high = self._high(context.patches, context.frozen["components"])
        return (context.patches - high) / context.frozen["deviation"]

    def picture(
        self, values: Float[AnyArray, "B M D"], context: TargetContext, hide: Int[AnyArray, "B M"]
    ) -> Float[Array, "B M P"]:
        """Adds what is left out from the true patch."""
        hidden = jnp.take_along_axis(context.patches, hide[..., None], axis=1)
        high = self._high(hidden, context.frozen["components"])
        return values * context.frozen["deviation"] + high

    def _high(self, patches: Array, components: Array) -> Array:
        found = jnp.einsum("blp,cp->blc", patches, components, precision="highest")
        return jnp.einsum("blc,cp->blp", found, components, precision="highest")


def dropped(variances: np.ndarray, share: float) -> int:
    """Returns how many of the first components are left out: the most that hold up to `share`."""
    held = np.cumsum(variances, dtype=np.float64) / variances.sum(dtype=np.float64)
    return int(np.searchsorted(held, share, side="right"))


def fit_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns principal components `[P, P]` of values `[N, P]`, and their variances `[1, P]`.

    The mean is not subtracted, so that the projection is linear; normalised pixels have a mean
    near 0.
    """
    second = values.astype(np.float64).T @ values.astype(np.float64) / len(values)
    variances, vectors = np.linalg.eigh(second)
    order = np.argsort(variances)[::-1]
    components = vectors[:, order].T.astype(np.float32)
    return components, np.maximum(variances[order], 0).astype(np.float32)[None]
