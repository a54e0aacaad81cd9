"""Terms against collapse: they keep the features of a batch apart, whatever the target is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt32

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.models.layouts import layout_of
from hpm_jax.plugs import register
from hpm_jax.tokens import AnyArray, Mask

POOLS = ("mean", "cls", "tokens")


@dataclasses.dataclass(frozen=True, repr=False)
class Spread(Term):
    """Base class of terms on the features of a batch, `[N, D]`.

    With gradient accumulation the batch is one part.
    """

    pool: str = option(
        "mean",
        "the features: the mean of the visible patches, the cls token, or every visible patch",
        choices=POOLS,
    )

    def check(self, config: Any) -> None:
        """Checks that there is a cls token, and more than one image."""
        name, layout = f"config.losses has {str(self)!r}", config.model.layout
        if self.pool == "cls" and not layout_of(layout, config.model).cls_token:
            raise ConfigError(
                f"{name}, and the encoder (config.model.layout = {layout!r}) has no cls token: "
                "pool='mean'"
            )
        rows = config.clips * config.mask.views // config.optimizer.accumulation
        if rows < 2:
            raise ConfigError(
                f"{name}, which compares images of a batch, and there is {rows} in each part: "
                "raise config.optimizer.batch_size, or lower config.optimizer.accumulation"
            )

    def features(self, outputs: Outputs) -> Float[Array, "N D"]:
        """Returns the features `[N, D]` float32."""
        tokens = outputs.features.astype(jnp.float32)
        if self.pool == "cls":
            return tokens[:, 0]
        tokens = visible_tokens(outputs)
        if self.pool == "mean":
            return tokens.mean(axis=1)
        return tokens.reshape(-1, tokens.shape[-1])


def visible_tokens(outputs: Outputs) -> Float[Array, "B K D"]:
    """Returns the student's features of the visible patches, `[B, K, D]` float32."""
    return outputs.features[:, -outputs.mask.keep.shape[1] :].astype(jnp.float32)


@register("dispersive")
class Dispersive(Spread):
    """Pushes the features of different images apart (Wang and He 2025, "Diffuse and Disperse")."""

    weight: float = option(0.5, "weight of the term in the loss", low=-1e6, high=1e6)
    temperature: float = option(0.5, "divisor of the squared distances", low=1e-3, high=1e3)

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the loss; see `dispersion`."""
        return dispersion(self.features(outputs), self.temperature), {}


def dispersion(features: Float[AnyArray, "N D"], temperature: float) -> Float[Array, ""]:
    """Returns `log mean_ij exp(-d_ij / temperature)`, from -log N (apart) to 0 (collapsed).

    `d_ij` is the mean square of `z_i - z_j` over the values, so that it does not depend on the
    width; pairs i = j count.
    """
    square = jnp.square(features).sum(axis=1)
    product = jnp.matmul(features, features.T, precision="highest")
    distance = jnp.maximum(square[:, None] + square[None] - 2 * product, 0.0) / features.shape[1]
    count = features.shape[0]
    return jax.nn.logsumexp(-distance / temperature) - 2 * np.log(count).astype(np.float32)


@register("sigreg")
class SIGReg(Spread):
    """Draws features towards a standard normal distribution (LeJEPA, Balestriero & LeCun 2025).

    Features are projected on random directions, drawn anew in each step; on each of them the
    Epps-Pulley statistic measures how far their distribution is from a standard normal one.
    """

    weight: float = option(0.05, "weight of the term in the loss", low=-1e6, high=1e6)
    directions: int = positive(256, "number of random directions in each step", high=10**5)
    points: int = option(
        17, "number of points of the integral from -limit to limit, odd", low=3, high=1001
    )
    limit: float = option(5.0, "where the integral ends", low=0.1, high=100)

    def check(self, config: Any) -> None:
        """Checks that 0 is one of the points."""
        super().check(config)
        if self.points % 2 == 0:
            raise ConfigError(
                f"config.losses has {str(self)!r}: points = {self.points}: expected an odd number"
            )

    def draw(self, key: Array, mask: Mask) -> UInt32[Array, "B words"]:
        """Returns the key of this step, `[B, words]`, the same in each row."""
        words = jax.random.key_data(key)
        return jnp.broadcast_to(words, (mask.hide.shape[0], *words.shape))

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the mean of the statistic over the directions; see `epps_pulley`."""
        features = self.features(outputs)
        key = jax.random.wrap_key_data(outputs.own.drawn[0])
        directions = jax.random.normal(key, (features.shape[1], self.directions))
        directions = directions / jnp.linalg.norm(directions, axis=0)
        projected = jnp.matmul(features, directions, precision="highest")
        return epps_pulley(projected, self.points, self.limit).mean(), {}


def epps_pulley(
    values: Float[AnyArray, "N M"], points: int = 17, limit: float = 5.0
) -> Float[Array, " M"]:
    """Returns the Epps-Pulley statistic of each column against a standard normal distribution.

    `N * integral |mean_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt` from -limit to limit by
    the trapezoidal rule (LeJEPA, section 4.2). It is near 1.06 for normal values, whatever N is,
    and grows as N otherwise.

    Args:
        values: `[N, M]`.
        points: number of points, odd.
        limit: end of the integral.
    """
    half = np.linspace(0, limit, points // 2 + 1)  # the integrand is even
    steps = np.full(len(half), 2 * half[1])
    steps[[0, -1]] /= 2
    normal = np.exp(-(half**2) / 2)
    angles = values[..., None] * jnp.asarray(half, values.dtype)
    real, imaginary = jnp.cos(angles).mean(axis=0), jnp.sin(angles).mean(axis=0)
    error = jnp.square(real - jnp.asarray(normal, values.dtype)) + jnp.square(imaginary)
    return values.shape[0] * error @ jnp.asarray(steps * normal, values.dtype)


@register("variance_covariance")
class VarianceCovariance(Spread):
    """Keeps a deviation in every feature, and features uncorrelated (VICReg, Bardes et al. 2022).

    It is softer than whitening (W-MSE, INTL), which makes the covariance exactly the identity.
    """

    variance: float = option(1.0, "weight of the variances", low=0, high=1e6)
    covariance: float = option(0.04, "weight of the covariances", low=0, high=1e6)
    deviation: float = option(1.0, "smallest deviation that costs nothing", low=0, high=1e6)

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the weighted sum, and both parts."""
        variance, covariance = variance_covariance(self.features(outputs), self.deviation)
        total = self.variance * variance + self.covariance * covariance
        return total, {"features_variance": variance, "features_covariance": covariance}


def variance_covariance(
    features: Float[AnyArray, "N D"], deviation: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns both parts of VICReg's regularisation (equations 1 to 4).

    The mean over the D features of `max(0, deviation - sqrt(var + 1e-4))`, and the sum of squares
    of the covariances of different features, divided by D; both with N - 1.
    """
    count, width = features.shape
    centred = features - features.mean(axis=0)
    covariance = jnp.matmul(centred.T, centred, precision="highest") / (count - 1)
    variances = jnp.diagonal(covariance)
    short = jnp.maximum(0.0, deviation - jnp.sqrt(variances + 1e-4)).mean()
    off = jnp.square(covariance).sum() - jnp.square(variances).sum()
    return short, off / width
