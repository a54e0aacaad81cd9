"""How far a prediction is from its target: objectives `[B, M, D]` to `[B, M]`, and their mean."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from hpm_jax.errors import ConfigError
from hpm_jax.fields import option
from hpm_jax.losses.fourier import power_spectrum
from hpm_jax.losses.term import Outputs, Term, mean_of
from hpm_jax.plugs import Plug, register
from hpm_jax.tokens import AnyArray, unit_length


class Objective(Plug, kind="objective"):
    """From prediction and target to a loss of each patch, never reduced over patches.

    So the loss predictor learns from any of them.
    """

    # whether a prediction has the scale of its target, so that an explained variance exists
    to_scale: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """`[B, M, D]` and `[B, M, D]` to `[B, M]` float32."""


def squared_error(
    prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
) -> Float[Array, "B M"]:
    """The squared error of each patch, averaged over its values: `[B, M, D]` to `[B, M]`."""
    return jnp.mean(jnp.square(prediction - target), axis=-1)


@register("squared_error", "mse")
class SquaredError(Objective):
    """The mean square over the values of a patch (MAE, HPM)."""

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """See `squared_error`."""
        return squared_error(prediction, target)


@register("absolute_error", "l1")
class AbsoluteError(Objective):
    """The mean absolute difference over the values of a patch (SimMIM)."""

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """`mean |prediction - target|`."""
        return jnp.mean(jnp.abs(prediction - target), axis=-1)


def smooth_l1(
    prediction: Float[AnyArray, "*batch D"], target: Float[AnyArray, "*batch D"], beta: float
) -> Float[Array, "*batch D"]:
    """Returns `d^2 / (2 beta)` where `d = |prediction - target| < beta`, else `d - beta / 2`."""
    distance = jnp.abs(prediction - target)
    if not beta:
        return distance
    return jnp.where(distance < beta, jnp.square(distance) / (2 * beta), distance - beta / 2)


@register("smooth_l1")
class SmoothL1(Objective):
    """Squared below beta, absolute above, averaged over the values (dBOT, MaskDistill)."""

    beta: float = option(1.0, "difference up to which the loss is quadratic", above=0, high=1e6)

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """The mean of `d^2 / (2 beta)` where `d < beta`, else of `d - beta / 2`."""
        return smooth_l1(prediction, target, self.beta).mean(axis=-1)


@register("cosine")
class Cosine(Objective):
    """`2 - 2 cos` of prediction and target: the squared distance at length 1 (HPM on features).

    Lengths are at least 1e-12, and squares are summed over the values, as in the official
    `models_mae_learn_feature_loss.py`.
    """

    to_scale: ClassVar[bool] = False

    def check(self, config: Any) -> None:
        """Vectors of one value have no direction."""
        width = config.target.width(config.setting)
        if width == 1:
            raise ConfigError(
                f"config.objective = {str(self)!r} compares directions, and config.target = "
                f"{str(config.target)!r} has one value a patch: --config.objective=squared_error"
            )

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """From 0 to 4."""
        return jnp.square(unit_length(prediction) - unit_length(target)).sum(axis=-1)


@register("info_nce")
class InfoNCE(Objective):
    """Which hidden patch of the image is it: cross-entropy over cosines (Latent MIM).

    Each prediction has to be closer to its own target than to those of the other hidden patches
    of the same image, so that masks and losses do not depend on the batch.
    """

    to_scale: ClassVar[bool] = False

    temperature: float = option(0.2, "divisor of the cosine similarities", low=1e-3, high=1e3)

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """`2 t (-log softmax(cos / t))` at the patch itself."""
        cosines = unit_length(prediction) @ jnp.swapaxes(unit_length(target), 1, 2)
        log_share = jax.nn.log_softmax(cosines / self.temperature, axis=-1)
        return -2 * self.temperature * jnp.diagonal(log_share, axis1=1, axis2=2)


@register("cross_entropy")
class CrossEntropy(Objective):
    """Cross-entropy of a target that is a distribution, such as `codes` (BEiT v2, CAPI)."""

    to_scale: ClassVar[bool] = False

    temperature: float = option(1.0, "divisor of the predictions", low=1e-3, high=1e3)

    def check(self, config: Any) -> None:
        """The target has to be a distribution."""
        if not config.target.distribution:
            raise ConfigError(
                f"config.objective = {str(self)!r} compares distributions, and config.target = "
                f"{str(config.target)!r} is none: --config.target=\"codes(path='codes.npz')\", or "
                "another objective"
            )

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """`-sum target log softmax(prediction / temperature)`."""
        return -jnp.sum(target * jax.nn.log_softmax(prediction / self.temperature), axis=-1)


@register("frequency")
class Frequency(Objective):
    """The distance of the spectra of patches (MFM, Xie et al. 2023, there of whole images).

    `sqrt(re^2 + im^2 + 1e-12) ** gamma` of the difference of the orthonormal 2D Fourier transforms,
    averaged over frequencies and channels of each patch.
    """

    gamma: float = option(1.0, "exponent of the distance of a frequency", above=0, high=10)
    channels: int = option(3, "number of channels of the images", low=1, high=1024)

    def check(self, config: Any) -> None:
        """The target has to be square patches of pixels."""
        target, (frames, rows, columns) = config.target, config.patch_size
        values = config.target.width(config.setting)
        if not target.picture_like or values != rows * columns * config.data.channels:
            raise ConfigError(
                f"config.objective = {str(self)!r} compares patches of {rows} x {columns} pixels "
                f"of one frame, and config.target = {str(target)!r} has {values} values for "
                f"patches of {(frames, rows, columns)}: expected a target of pixels of images, or "
                "with frames='one'"
            )
        if self.channels != config.data.channels:
            raise ConfigError(
                f"config.objective = {str(self)!r}, and config.data.channels = "
                f"{config.data.channels}: expected the same, channels={config.data.channels}"
            )

    def __call__(
        self, prediction: Float[AnyArray, "B M D"], target: Float[AnyArray, "B M D"]
    ) -> Float[Array, "B M"]:
        """See the class."""
        error = prediction - target
        side = round((error.shape[-1] / self.channels) ** 0.5)
        error = error.reshape(*error.shape[:2], side, side, self.channels)
        return ((power_spectrum(error) + 1e-12) ** (self.gamma / 2)).mean(axis=(2, 3, 4))


@register("reconstruction")
class Reconstruction(Term):
    """The objective's mean over the hidden patches; there unless a config weighs it itself."""

    of_hidden: ClassVar[bool] = True

    def __call__(self, outputs: Outputs) -> tuple[Float32[Array, ""], dict[str, Array]]:
        """The mean."""
        return mean_of(outputs.losses, outputs.mask), {}


def compared(objective: Objective, prediction: Array, target: Array) -> Array:
    """The objective, with its shapes asserted: nothing broadcasts.

    Raises:
        ValueError: where prediction and target, or the losses, have other shapes than they should.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction is {prediction.shape} and the target {target.shape}: the `width` of a "
            "target has to be the last axis of what it returns"
        )
    losses = objective(prediction, target)
    if losses.shape != prediction.shape[:2]:
        raise ValueError(
            f"the objective {objective} gives {losses.shape} of a prediction {prediction.shape}: "
            f"expected a loss of each patch, {prediction.shape[:2]}"
        )
    return losses
