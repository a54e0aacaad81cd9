"""What is measured on the way: logistic regression, kNN, RankMe, and the held-out loss."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from hpm_jax.config import Config
from hpm_jax.data.pipeline import test_images
from hpm_jax.data.sources import Splits
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.features import pool
from hpm_jax.evaluation.knn import rank_me
from hpm_jax.evaluation.standardised import pixel_features, tell
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.run.devices import Devices
from hpm_jax.step.choose import mask_units
from hpm_jax.step.method import Method
from hpm_jax.step.schedules import AT_RANDOM
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.step import Masked, draw_all, student_pass, total_loss
from hpm_jax.tokens import Mask


def fixed_key(first: Array | int) -> Array:
    """The key of the images from number `first` on: the same for every run."""
    return jax.random.fold_in(jax.random.key(0), first)


def fixed_mask(method: Method, state: TrainState, patches: Array, first: Array | int) -> Mask:
    """Random masks of these images, the same for every mask strategy and seed."""
    return mask_units(method.at_random, state, patches, fixed_key(first), AT_RANDOM, {})


class Evaluator:
    """Holds the fixed images in memory and the compiled functions, and measures parameters."""

    def __init__(
        self,
        config: Config,
        model: MaskedAutoencoder,
        method: Method,
        splits: Splits,
        devices: Devices,
        say: Callable[[str], None],
    ):
        evaluation = config.evaluation
        self.options, self.devices = evaluation, devices
        self.batch_size = devices.round_up(evaluation.batch_size)
        broken: list[str] = []

        def load(records, count):
            order = np.random.default_rng(0).permutation(len(records))[:count]
            images, labels, names = test_images(records, order, config)
            broken.extend(names)
            return images, labels

        self.images, self.labels = load(splits.test, evaluation.test_images)
        self.labelled = len(splits.classes) > 1 and bool((self.labels >= 0).all())
        if self.labelled:
            self.bank, self.bank_labels = load(splits.train, evaluation.bank_images)
        for name in broken:
            say(f"cannot read {name}: left out of the evaluation")

        blind = method.at_random

        def features(params, images):
            tokens = model.apply({"params": params}, method.patches(images), method="encode")
            return pool(tokens, evaluation.pool, model.layout.extra_tokens)

        def masked_losses(state, images, start):
            patches = method.patches(images)
            mask = fixed_mask(blind, state, patches, start)
            masked = Masked(patches, mask, draw_all(blind, mask, fixed_key(start), 0))
            outputs = student_pass(model, blind, state, state.params, masked)
            return total_loss(blind, state, state.params, masked, outputs)[1]

        self._features = jax.jit(features, out_shardings=devices.replicated)
        self._masked_losses = jax.jit(masked_losses, out_shardings=devices.replicated)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """All numbers, by name.

        `held_out/*` are means over fixed images under fixed random masks, the same for every mask
        strategy, so that runs can be compared. `logistic` and `knn`, of standardised features, are
        there only where there are labels.
        """
        params = state.params
        test = self.features(params, self.images)
        numbers = {"rank_me": rank_me(test)} | self.held_out(state)
        if self.labelled:
            numbers |= self._told(self.features(params, self.bank), test)
        return numbers

    def raw_pixels(self) -> dict[str, float]:
        """The same measures of the pixels themselves: what features are to beat; {} unlabelled."""
        if not self.labelled:
            return {}
        told = self._told(pixel_features(self.bank), pixel_features(self.images))
        return {f"raw_pixels/{name}": value for name, value in told.items()}

    def _told(self, bank: np.ndarray, queries: np.ndarray) -> dict[str, float]:
        o = self.options
        found = tell(
            bank, self.bank_labels, queries, self.labels, o.penalty, o.neighbors, o.temperature
        )
        return found.accuracies()

    def features(self, params: Params, images: np.ndarray) -> np.ndarray:
        """Pooled features `[N, D]` of images `[N, H, W, C]`, a batch at a time."""

        def encode(part: np.ndarray) -> Array:
            return self._features(params, self.devices.put_whole(part))

        return in_batches(encode, self.batch_size, images)

    def held_out(self, state: TrainState) -> dict[str, float]:
        """The training losses on the test images, over whole batches."""
        size = min(self.batch_size, len(self.images) // self.devices.count * self.devices.count)
        sums: dict[str, float] = {}
        starts = range(0, len(self.images) - size + 1, size) if size else ()
        for start in starts:
            images = self.devices.put_whole(self.images[start : start + size])
            losses = self._masked_losses(state, images, start)
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in losses.items()}
        return {f"held_out/{name}": value / len(starts) for name, value in sums.items()}
