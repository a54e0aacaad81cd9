"""What a classifier is trained by: one class of an image, or any number of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt8

from hpm_jax.augmentation import smooth_labels
from hpm_jax.tokens import AnyArray


class Criterion(NamedTuple):
    """Targets, loss and probabilities that go together."""

    targets: Callable[[Array, int, float], Array]  # (labels, classes, smoothing) -> [B, classes]
    loss: Callable[[Array, Array], Array]  # (logits, targets) -> scalar
    shares: Callable[[Array], Array]  # logits -> probabilities, which are targets too


def cross_entropy(
    logits: Float[AnyArray, "B classes"], targets: Float[AnyArray, "B classes"]
) -> Float[Array, ""]:
    """The mean over the batch of `-sum(targets * log_softmax(logits))`."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def binary_cross_entropy(
    logits: Float[AnyArray, "B classes"], targets: Float[AnyArray, "B classes"]
) -> Float[Array, ""]:
    """The mean over images and classes of `-t log(s(x)) - (1 - t) log(1 - s(x))`, s a sigmoid."""
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-jnp.asarray(logits))
    return -jnp.mean(targets * yes + (1 - targets) * no)


def smooth_each(
    labels: UInt8[AnyArray, "B classes"] | Int[AnyArray, "B classes"],
    classes: int,
    smoothing: float,
) -> Float[Array, "B classes"]:
    """Returns targets of classes that do not exclude each other: `(1 - s) y + s / 2`."""
    return (1 - smoothing) * jnp.asarray(labels, jnp.float32) + smoothing / 2


CRITERIA = {
    "one": Criterion(smooth_labels, cross_entropy, jax.nn.softmax),
    "many": Criterion(smooth_each, binary_cross_entropy, jax.nn.sigmoid),
}
