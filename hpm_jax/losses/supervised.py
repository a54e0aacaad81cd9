"""A loss on labels: the student's features tell the classes apart while it learns to rebuild."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from hpm_jax.data.records import DataError, Splits, known_labels
from hpm_jax.errors import ConfigError
from hpm_jax.fields import option, positive
from hpm_jax.losses.heads import init_perceptron, perceptron, perceptron_flops
from hpm_jax.losses.spread import visible_tokens
from hpm_jax.losses.term import Outputs, Term
from hpm_jax.models.layouts import layout_of
from hpm_jax.plugs import Setting, register
from hpm_jax.tokens import AnyArray


@register("supervised")
class Supervised(Term):
    """Cross-entropy of a linear classifier of the student's features (Chen et al. 2023).

    "Improve Supervised Representation Learning with Masked Image Modeling" (arXiv 2312.00950): the
    encoder classifies the clean image and, from a masked copy, a shallow decoder predicts codes.
    With `view="visible"` the features are those of the visible patches, which costs no second pass.
    Images without a label (-1) are left out of the mean.
    """

    classes: int = positive(1000, "number of classes", high=10**7)
    view: str = option(
        "whole",
        "what is classified: the whole image, by a second pass of the student, or what is visible",
        choices=("whole", "visible"),
    )
    pool: str = option(
        "mean", "the features: the mean of the patches, or the cls token", choices=("mean", "cls")
    )
    label_smoothing: float = option(0.0, "probability mass spread over all classes", low=0, high=1)

    annotations: ClassVar = ("label",)

    @property
    def of_visible(self) -> bool:  # type: ignore[override]
        """Whether it takes the features of visible patches."""
        return self.view == "visible"

    @property
    def whole_image(self) -> bool:  # type: ignore[override]
        """Whether the student also encodes the whole image."""
        return self.view == "whole"

    def check(self, config: Any) -> None:
        """Checks that the data can have labels, and the encoder a cls token where one is read."""
        name, layout = f"config.losses has {str(self)!r}", config.model.layout
        if config.data.label_key == "none":
            raise ConfigError(
                f"{name}, which needs labels, and config.data.label_key = 'none' leaves them out: "
                "name their column, or '' to find it"
            )
        if self.pool == "cls" and not layout_of(layout, config.model).cls_token:
            raise ConfigError(
                f"{name}, and the encoder (config.model.layout = {layout!r}) has no cls token: "
                "pool='mean'"
            )

    def check_data(self, splits: Splits) -> None:
        """Raises a `DataError` without labels, and for more classes than the head has."""
        labels, found = known_labels(splits.train), len(splits.classes)
        if not found or (labels is not None and not (labels >= 0).any()):
            raise DataError(
                f"config.losses has {str(self)!r}, which needs labels, and the training images "
                "have none: put them into folders named after their classes, or leave the term out"
            )
        if found > self.classes:
            raise DataError(
                f"config.losses has {str(self)!r}: the training images have {found} classes and "
                f"its head {self.classes}: classes={found}"
            )

    def init(self, key: Array, setting: Setting) -> Any:
        """Returns the linear classifier."""
        return init_perceptron(key, (setting.width, self.classes))

    def step_flops(self, setting: Setting) -> float:
        """Those of the classifier; a second pass of the student is not the term's own."""
        return 3 * perceptron_flops((setting.width, self.classes))

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns the cross-entropy, and how many images with a label are classified correctly."""
        logits = perceptron(outputs.own.params, self.features(outputs))
        labels = jnp.asarray(outputs.annotations["label"])
        found = cross_entropy(logits, labels, self.label_smoothing)
        return found, {"supervised_accuracy": accuracy(logits, labels)}

    def features(self, outputs: Outputs) -> Float[Array, "B D"]:
        """Returns the features that are classified, `[B, D]` float32."""
        whole = self.view == "whole"
        tokens = (outputs.whole_features if whole else outputs.features).astype(jnp.float32)
        if self.pool == "cls":
            return tokens[:, 0]
        if whole:
            return tokens[:, -outputs.patches.shape[1] :].mean(axis=1)
        return visible_tokens(outputs).mean(axis=1)


def mean_of_labelled(
    values: Float[AnyArray, " B"], labels: Int[AnyArray, " B"]
) -> Float[Array, ""]:
    """Returns the mean over images with a label, one that is not negative; 0 without any."""
    counted = (labels >= 0).astype(jnp.float32)
    return jnp.sum(values * counted) / jnp.maximum(counted.sum(), 1.0)


def cross_entropy(
    logits: Float[AnyArray, "B classes"], labels: Int[AnyArray, " B"], smoothing: float = 0.0
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the images that have a label.

    Args:
        logits: `[B, classes]`.
        labels: `[B]`, negative without a label.
        smoothing: probability mass spread over all classes (Szegedy et al. 2016).
    """
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    target = (1 - smoothing) * target + smoothing / classes
    losses = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    return mean_of_labelled(losses, labels)


def accuracy(logits: Float[AnyArray, "B classes"], labels: Int[AnyArray, " B"]) -> Float[Array, ""]:
    """Returns the share of images with a label whose largest logit is that of their class."""
    correct = (jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)
    return mean_of_labelled(correct, labels)
