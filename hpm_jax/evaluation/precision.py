"""Mean average precision of a classifier of images with any number of classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.data.sources import Records
from hpm_jax.evaluation.accuracy import evaluate_split
from hpm_jax.models import Classifier
from hpm_jax.run.devices import Devices
from hpm_jax.step.criterion import binary_cross_entropy
from hpm_jax.step.state import Params
from hpm_jax.tokens import Grid, Tokenizer


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the mean precision at each positive image, by descending scores; NaN without any.

    It is the area under the precision-recall curve by steps, as in COCO's and scikit-learn's
    classification. Images with equal scores count as one group.

    Args:
        scores: `[N]`.
        positive: `[N]` bool.
    """
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    # the last place of each group of equal scores
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes that have an image, of `[N, classes]` scores and labels."""
    each = [average_precision(*pair) for pair in zip(scores.T, labels.T > 0, strict=True)]
    return float(np.nanmean(each)) if np.isfinite(each).any() else 0.0


class PrecisionMeter:
    """Holds the compiled classifier and scores parameters on a split, as `AccuracyMeter` does."""

    deciding = "mean_average_precision"

    def __init__(
        self,
        config: Any,
        model: Classifier,
        records: Records,
        devices: Devices,
        patch_size: Grid,
    ):
        self.config, self.records, self.devices = config, records, devices
        self.batch_size = devices.round_up(config.evaluation.batch_size)
        self.unread: list[str] = []  # names of unreadable images, which are excluded
        tokenizer = Tokenizer(patch_size, config.data.mean, config.data.std)

        def score(params: Params, images: Array, *others: Array) -> tuple[Array, ...]:
            logits: Any = model.apply({"params": params}, tokenizer(images))
            # several views of a video are averaged
            logits = logits.reshape(len(images), -1, logits.shape[-1]).mean(axis=1)
            return logits, *others

        self._score = jax.jit(score, out_shardings=devices.replicated)

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns `mean_average_precision` and `test_loss` over all readable images."""
        self.unread, found = [], []

        def score(*batch: Array) -> Any:
            return self._score(params, *batch)

        for batch, unread in evaluate_split(
            score, self.records, self.config, self.batch_size, self.devices, name="labels"
        ):
            logits, labels, weights = map(np.asarray, batch)
            found.append((logits[weights > 0], labels[weights > 0]))
            self.unread += unread
        logits, labels = map(np.concatenate, zip(*found, strict=True))
        both = jnp.asarray(logits), jnp.asarray(labels, jnp.float32)
        loss = float(binary_cross_entropy(*both)) if len(logits) else 0.0
        return {self.deciding: mean_average_precision(logits, labels), "test_loss": loss}

    def sentence(self, numbers: dict[str, float]) -> str:
        """Formats the numbers for the console."""
        return f"mAP {numbers[self.deciding]:.2%}  test loss {numbers['test_loss']:.4f}"
