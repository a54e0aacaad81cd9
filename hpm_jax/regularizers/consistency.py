"""A masked branch: an image of which patches are hidden has the same labels."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hpm_jax.fields import option
from hpm_jax.masking import hidden_count, select
from hpm_jax.models import Classifier
from hpm_jax.plugs import register
from hpm_jax.regularizers.regularizer import Inputs, Regularizer


@register("label_consistency")
class LabelConsistency(Regularizer):
    """Labels and predictions hold for a part of the image (MSL, Zunair and Ben Hamza 2023).

    "Learning to Recognize Occluded and Small Objects with Partial Inputs" (arXiv 2310.18517): a
    masked branch learns the labels, and its probabilities are drawn to those of the whole image by
    a squared difference; gradients flow through both. There strokes of pixels are blackened; here
    patches are left out, as in MaskSub. It was made for images with several classes
    (`config.labels = "many"`), and takes one class too.
    """

    ratio: float = option(
        0.5, "fraction of the patches that the branch does not see", above=0, below=1
    )
    supervision: float = option(1.0, "weight of the branch's loss on labels", low=0, high=1e6)
    consistency: float = option(1.0, "weight of the squared difference", low=0, high=1e6)

    @property
    def forward_passes(self) -> float:  # type: ignore[override]
        """Forward and backward of the patches that are left."""
        return 3.0 * (1 - self.ratio)

    def draw_for(self, key: Array, patches: Array) -> Array:
        """The patches that the branch sees, `[B, K]`."""
        scores = jax.random.uniform(key, patches.shape[:2])
        return select(scores, hidden_count(patches.shape[1], self.ratio)).keep

    def __call__(self, model: Classifier, params: Any, inputs: Inputs) -> Array:
        """The weighted sum of both losses."""
        logits: Any = model.apply({"params": params}, inputs.patches, inputs.drawn)
        criterion = inputs.criterion
        shares = criterion.shares(logits), criterion.shares(inputs.logits)
        apart = jnp.mean(jnp.square(shares[0] - shares[1]))
        return self.supervision * criterion.loss(logits, inputs.targets) + self.consistency * apart
