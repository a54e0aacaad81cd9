"""Whitening against collapse: masks of one image agree after features are whitened."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float, Float32

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.spread import Spread
from hpm_jax.losses.term import Outputs
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import AnyArray, Mask, unit_length


@dataclasses.dataclass(frozen=True, repr=False)
class Whitening(Spread):
    """Base class of terms that whiten the values of a head over a batch, and compare views.

    The views are the masks of an image (`mask.views`); the papers' are crops with other colours.
    Statistics are those of the whole batch, over all devices. Under a single mask, as on held-out
    images, there is nothing to compare, and the distance is 0.
    """

    width: int = positive(2048, "width of the hidden layer of the head", high=2**16)
    values: int = positive(64, "number of values that are whitened", high=2**14)

    def check(self, config: Any) -> None:
        """Checks that each image has several masks, all of them in one part of the batch."""
        super().check(config)
        name = f"config.losses has {str(self)!r}"
        if self.pool == "tokens":
            raise ConfigError(f"{name}, which compares whole images: pool='mean' or 'cls'")
        if config.mask.views < 2:
            raise ConfigError(
                f"{name}, which compares masks of one image, and config.mask.views = 1: "
                "--config.mask.views=2"
            )
        if config.optimizer.accumulation > 1:
            raise ConfigError(
                f"{name}, which whitens over the batch, and config.optimizer.accumulation = "
                f"{config.optimizer.accumulation} cuts it: set it to 1"
            )

    def widths(self, setting: Setting) -> tuple[int, ...]:
        """Widths of the layers of the head."""
        return setting.width, self.width, self.values

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the head."""
        return init_perceptron(key, self.widths(setting))

    def step_flops(self, setting: Setting) -> float:
        """Those of the head; whitening costs little beside an encoder."""
        return 3 * perceptron_flops(self.widths(setting))

    def by_view(self, outputs: Outputs) -> Float[Array, "views N values"]:
        """Returns the values of the head for each view of each image."""
        values = perceptron(outputs.own.params, self.features(outputs))
        return values.reshape(-1, outputs.views, self.values).swapaxes(0, 1)


@register("intl")
class INTL(Whitening):
    """Whitening by Newton's iterations, with a loss on what they leave (INTL, Weng et al. 2023).

    "Modulate Your Spectrum in Self-Supervised Learning" (arXiv 2305.16789): views are whitened each
    by its own covariance and compared as vectors of length 1; a few iterations whiten only roughly,
    and the trace loss moves the variances to 1, so that the eigenvalues become equal.
    """

    values: int = positive(512, "number of values that are whitened", high=2**14)
    iterations: int = option(4, "number of Newton's iterations", low=1, high=100)
    trace: float = option(
        0.05, "weight of the trace loss; the authors take 0.01 (log2 N - 3), N images",
        low=0, high=1e6,
    )  # fmt: skip

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the distance of the views and the weighted trace loss, and both."""
        whitened = jax.vmap(lambda z: newton_whitened(z, self.iterations))(self.by_view(outputs))
        distance, trace = distance_of_views(whitened), jax.vmap(trace_loss)(whitened)
        # with each pair of views, both of their trace losses
        total = distance + 2 * self.trace * trace.mean()
        return total, {"intl_distance": distance, "intl_trace": trace.mean()}


@register("w_mse")
class WhiteningMSE(Whitening):
    """Whitening by a Cholesky factor in parts of the batch (W-MSE, Ermolov et al. 2021).

    "Whitening for Self-Supervised Representation Learning" (arXiv 2007.06346): in each of some
    random groups of images, the views together are whitened, and compared as vectors of length 1.
    A group has at least twice as many images as there are values, so that the covariance is known.
    """

    group: int = option(
        128, "number of images in a group; 0 for the whole batch", low=0, high=10**7
    )
    shrinkage: float = option(
        1e-3, "share of the identity in the covariance, against small eigenvalues", low=0, below=1
    )

    def check(self, config: Any) -> None:
        """Checks that groups fill the batch, and that each has images enough."""
        super().check(config)
        images, name = config.clips, f"config.losses has {str(self)!r}"
        group = self.group or images
        if images % group:
            raise ConfigError(
                f"{name}: group = {self.group} does not divide the {images} images of a batch "
                "(config.optimizer.batch_size): choose a divisor, or 0 for the whole batch"
            )
        if group < 2 * self.values:
            raise ConfigError(
                f"{name}, which whitens {self.values} values by {group} images: expected twice as "
                f"many, values={max(group // 2, 1)} or larger groups"
            )

    def draw(self, key: Array, mask: Mask) -> Float32[Array, " B"]:
        """Returns uniform numbers, by whose order images are dealt to groups."""
        return jax.random.uniform(key, (mask.hide.shape[0],))

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the distance of the views, from 0 to 4."""
        values = self.by_view(outputs)
        order = jnp.argsort(outputs.own.drawn[:: outputs.views])
        groups = groups_of(values[:, order], self.group)

        def whiten(group: Array) -> Array:
            rows = group.reshape(-1, self.values)
            return cholesky_whitened(rows, self.shrinkage).reshape(group.shape)

        return distance_of_views(jax.vmap(whiten, in_axes=1, out_axes=1)(groups)), {}


def groups_of(
    values: Float[AnyArray, "views N D"], size: int
) -> Float[Array, "views groups size D"]:
    """Cuts images into groups of `size`; what does not fill groups, or 0, is one group."""
    count = values.shape[1]
    size = size if size and count % size == 0 else count
    return jnp.asarray(values).reshape(values.shape[0], -1, size, values.shape[-1])


def distance_of_views(values: Float[AnyArray, "views *batch D"]) -> Float[Array, ""]:
    """Returns the mean of `|u - v|^2` over pairs of views, as vectors of length 1; 0 for one view.

    The mean over all pairs is `2 V / (V - 1)` times the mean square distance to the mean view.
    """
    unit, views = unit_length(jnp.asarray(values)), values.shape[0]
    spread = jnp.square(unit - unit.mean(axis=0)).sum(axis=-1).mean()
    return spread * (2 * views / max(views - 1, 1))


def covariance_of(centred: Float[AnyArray, "N D"]) -> Float[Array, "D D"]:
    """Returns the covariance of centred rows, with N - 1."""
    product = jnp.matmul(centred.T, centred, precision="highest")
    return product / max(centred.shape[0] - 1, 1)


def newton_whitened(values: Float[AnyArray, "N D"], iterations: int) -> Float[Array, "N D"]:
    """Returns roughly whitened rows (INTL, equation 7; Huang et al. 2019, IterNorm).

    With the covariance S and T = S / tr(S): P = I, then `P <- 1.5 P - 0.5 P^3 T`, which goes to
    `T^(-1/2)`; the rows times `P / sqrt(tr(S))`. Q = T P is updated along with P: it is the same
    polynomial, and rounding errors do not grow with the iterations (Higham 2008, section 6.3).
    """
    centred = values - values.mean(axis=0)
    covariance = covariance_of(centred)
    trace = jnp.maximum(jnp.trace(covariance), 1e-12)

    multiply = functools.partial(jnp.matmul, precision="highest")
    inverse, root = jnp.eye(values.shape[1], dtype=jnp.float32), covariance / trace
    for _ in range(iterations):
        product = multiply(inverse, root)
        inverse = 1.5 * inverse - 0.5 * multiply(product, inverse)
        root = 1.5 * root - 0.5 * multiply(root, product)
    return multiply(centred, inverse) / jnp.sqrt(trace)


def trace_loss(values: Float[AnyArray, "N D"]) -> Float[Array, ""]:
    """Returns the sum over the D values of `(variance - 1)^2` (INTL, equation 10)."""
    variance = jnp.square(values - values.mean(axis=0)).sum(axis=0) / max(values.shape[0] - 1, 1)
    return jnp.square(variance - 1).sum()


def cholesky_whitened(values: Float[AnyArray, "N D"], shrinkage: float) -> Float[Array, "N D"]:
    """Returns rows whitened by the inverse Cholesky factor of their covariance (W-MSE, section 3).

    The covariance is `(1 - shrinkage) S + shrinkage I`.
    """
    centred = values - values.mean(axis=0)
    covariance = (1 - shrinkage) * covariance_of(centred)
    covariance = covariance + shrinkage * jnp.eye(values.shape[1], dtype=jnp.float32)
    factor = jnp.linalg.cholesky(covariance)
    return solve_triangular(factor, centred.T, lower=True).T
