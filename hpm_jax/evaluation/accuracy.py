"""Accuracy over a whole split, in one pass that counts every image once for any batch size."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.data.pipeline import BrokenImages, evaluation_batches
from hpm_jax.data.sources import Records
from hpm_jax.models import Classifier
from hpm_jax.run.devices import Devices
from hpm_jax.step.state import Params
from hpm_jax.tokens import Grid, Tokenizer


def scores(logits: Array, labels: Array, weights: Array) -> dict[str, Array]:
    """Returns weighted sums over a batch: `top1`, `top5`, `loss` and `count`, float32.

    An image is in the top 5 if fewer than five other classes have a logit at least as high as its
    own class: ties count against the model.

    Args:
        logits: `[B, classes]`.
        labels: `[B]` int32.
        weights: `[B]` float32; 0 for padding.
    """
    labels = jnp.maximum(labels, 0)
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    rank = jnp.sum(logits >= own, axis=1) - 1
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    values = {"top1": rank < 1, "top5": rank < 5, "loss": loss, "count": jnp.ones_like(loss)}
    return {name: jnp.sum(weights * value.astype(jnp.float32)) for name, value in values.items()}


def average_views(logits: Array, count: int) -> Array:
    """Averages the probabilities of V views each, for logits `[count * V, classes]`.

    Returns `[count, classes]`: log probabilities, or the logits themselves if V is 1.
    """
    if len(logits) == count:
        return logits
    views = jax.nn.log_softmax(logits).reshape(count, -1, logits.shape[-1])
    return jax.nn.logsumexp(views, axis=1) - jnp.log(jnp.float32(views.shape[1]))


class AccuracyMeter:
    """Holds the compiled classifier and scores parameters on a split."""

    deciding = "top1"  # the number by which states of a run are chosen

    def __init__(
        self,
        config: Any,
        model: Classifier,
        records: Records,
        devices: Devices,
        patch_size: Grid,
        among: np.ndarray | None = None,
    ):
        """Builds the functions; `among` are the outputs `[N]` of the labels' classes; None: all."""
        self.config, self.records, self.devices = config, records, devices
        self.batch_size = devices.round_up(config.evaluation.batch_size)
        self.unread: list[str] = []  # names of unreadable images, which are excluded

        tokenizer = Tokenizer(patch_size, config.data.mean, config.data.std)

        def logits(params, images):
            found = model.apply({"params": params}, tokenizer(images))
            found = found if among is None else found[:, among]
            return average_views(found, len(images))

        def score(params, images, labels, weights):
            return scores(logits(params, images), labels, weights)

        self.logits = jax.jit(logits, out_shardings=devices.replicated)
        self._score = jax.jit(score, out_shardings=devices.replicated)

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns `top1`, `top5` and `test_loss` over all readable images."""
        sums: dict[str, float] = {}
        self.unread = []
        score = functools.partial(self._score, params)
        for found, unread in evaluate_split(
            score, self.records, self.config, self.batch_size, self.devices
        ):
            # summed in float64: float32 would lose single images after 16 million
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
            self.unread += unread
        count = max(sums.pop("count"), 1.0)
        return {
            "top1": sums["top1"] / count,
            "top5": sums["top5"] / count,
            "test_loss": sums["loss"] / count,
        }

    def sentence(self, numbers: dict[str, float]) -> str:
        """Formats the numbers for the console."""
        return (
            f"top-1 {numbers['top1']:.2%}  top-5 {numbers['top5']:.2%}  "
            f"test loss {numbers['test_loss']:.4f}"
        )


def evaluate_split(
    function: Callable[[Array, Array, Array], Any],
    records: Records,
    config: Any,
    batch_size: int,
    devices: Devices,
    broken: BrokenImages | None = None,
    name: str = "label",
) -> Iterator[tuple[Any, list[str]]]:
    """Yields the result of `function` for each batch, on the host, and names of excluded images.

    Args:
        function: takes uint8 images `[B, H, W, C]`, labels `[B]` and weights `[B]` on the devices;
            the weight is 0 for padding and unreadable images. Its result is replicated.
        config: has `data` and `run`.
        batch_size: number of images over all devices, divisible by their number.
        broken: counts the unreadable images; None for a new counter with the config's limit.
        name: of the labels in a batch.

    Raises:
        DataError: if more than `config.data.max_broken` of the split cannot be read.
    """
    rows = devices.rows(batch_size)
    if broken is None:
        broken = BrokenImages(records, config.data.max_broken, config.data.max_pixels)
    for batch in evaluation_batches(records, config.data, config.run, batch_size, rows):
        arrays = (devices.put(batch[part]) for part in ("image", name, "weight"))
        unread = broken.add(batch["broken"])
        yield jax.device_get(function(*arrays)), unread
