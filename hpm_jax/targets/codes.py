"""Codes as a target: which entry of a codebook is nearest to what another target gives."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from hpm_jax.fields import option
from hpm_jax.plugs import Setting, register
from hpm_jax.targets.fitted import check_values, read_array
from hpm_jax.targets.target import Target, TargetContext
from hpm_jax.tokens import AnyArray


@register("codes")
class Codes(Target):
    """The code of each patch in a codebook that was fitted before (after BEiT v2, Peng 2022).

    The codebook is that of a k-means of the values of another target, `of`, which
    `python -m hpm_jax.targets codes` makes; BEiT v2 trains an encoder and a decoder with it. The
    target is a distribution over the codes, for the objective `cross_entropy`.
    """

    path: str = option("", "a .npz file with `codebook` [codes, values]")
    of: str = option("normalized_pixels", "the target whose values are coded, a call")
    temperature: float = option(
        0.0, "of a softmax over negative squared distances; 0 is the nearest code", low=0, high=1e6
    )

    distribution: ClassVar[bool] = True

    @functools.cached_property
    def inner(self) -> Target:
        """The target whose values are coded."""
        return Target.parse_call(self.of, f"config.target = {str(self)!r}: of")

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the coded target."""
        return self.inner.reads

    def check(self, config: Any) -> None:
        """The file has to be there, and its codes to be as wide as the coded target."""
        name = f"config.target = {str(self)!r}"
        self.inner.check(config)
        codebook = read_array(self.path, "codebook", name)
        width = self.inner.width(config.setting)
        check_values(codebook, width, name, f"the target {self.of!r} has")

    def width(self, setting: Setting) -> int:
        """The number of codes."""
        return len(read_array(self.path, "codebook", f"config.target = {str(self)!r}"))

    def load(self, setting: Setting) -> Any:
        """The codebook, and what the coded target loads."""
        codebook = read_array(self.path, "codebook", f"config.target = {str(self)!r}")
        loaded = {"codebook": codebook, "of": self.inner.load(setting)}
        return {name: tree for name, tree in loaded.items() if tree is not None}

    def step_flops(self, setting: Setting) -> float:
        """Those of the coded target, and of the products with the codebook."""
        width = self.inner.width(setting)
        return self.inner.step_flops(setting) + 2.0 * setting.patches * width * self.width(setting)

    def __call__(self, context: TargetContext) -> Float[Array, "B L D"]:
        """Shares of the codes, `[B, L, codes]`."""
        values = self.inner(context._replace(frozen=context.frozen.get("of")))
        return shares_of_codes(values, context.frozen["codebook"], self.temperature)


def shares_of_codes(
    values: Float[AnyArray, "B L V"], codebook: Float[AnyArray, "K V"], temperature: float
) -> Float[Array, "B L K"]:
    """Returns one-hot vectors of the nearest code, or `softmax(-|v - c|^2 / temperature)`."""
    product = jnp.einsum("blv,kv->blk", values, codebook, precision="highest")
    closeness = 2 * product - jnp.square(codebook).sum(axis=-1)  # -|v - c|^2 but for |v|^2
    if temperature:
        return jax.nn.softmax(closeness / temperature, axis=-1)
    return jax.nn.one_hot(closeness.argmax(axis=-1), len(codebook), dtype=jnp.float32)


def fit_codebook(values: np.ndarray, codes: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Fits a codebook `[codes, V]` to values `[N, V]` by k-means; also the share it explains."""
    from sklearn.cluster import MiniBatchKMeans

    batch = max(1024, 4 * codes)
    fitted = MiniBatchKMeans(codes, random_state=seed, batch_size=batch, n_init=1).fit(values)
    codebook = fitted.cluster_centers_.astype(np.float32)
    left = np.square(values - codebook[fitted.predict(values)]).sum()
    total = np.square(values - values.mean(axis=0)).sum()
    return codebook, float(1 - left / total)
