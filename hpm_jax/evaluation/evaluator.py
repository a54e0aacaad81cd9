"""Evaluation during pre-training: logistic regression, kNN, RankMe, and the held-out loss."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np
from jax import Array

from hpm_jax.config import Config
from hpm_jax.data.pipeline import test_images
from hpm_jax.data.sources import Splits
from hpm_jax.evaluation.batches import in_batches
from hpm_jax.evaluation.checks import check_finite_features
from hpm_jax.evaluation.features import pool
from hpm_jax.evaluation.fillings import measure_fillings
from hpm_jax.evaluation.knn import rank_me
from hpm_jax.evaluation.rebuilding import fixed_key, fixed_mask, moments, summarize
from hpm_jax.evaluation.standardised import pixel_features, tell
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.run.ahead import compile_ahead
from hpm_jax.run.devices import Devices
from hpm_jax.step.method import Method
from hpm_jax.step.state import Params, TrainState
from hpm_jax.step.step import Masked, draw_all, student_pass, total_loss


class Evaluator:
    """Evaluates parameters on fixed images in memory, with compiled functions."""

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
        self.options, self.devices, self.method = evaluation, devices, method
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

        def masked_losses(state, images, labels, start):
            patches = method.patches(images)
            mask = fixed_mask(blind, state, patches, start)
            drawn = draw_all(blind, mask, fixed_key(start), 0)
            masked = Masked(patches, mask, drawn, annotations={"label": labels})
            outputs = student_pass(model, blind, state, state.params, masked)
            losses = total_loss(blind, state, state.params, masked, outputs)[1]
            return losses, moments(method, patches, outputs)

        self._features: Callable[..., Any] = jax.jit(features, out_shardings=devices.replicated)
        self._masked_losses: Callable[..., Any] = jax.jit(
            masked_losses, out_shardings=devices.replicated
        )

    def compile_ahead(self, threads: Executor, state: TrainState) -> None:
        """Starts to compile what an evaluation of a state of these shapes calls, in threads."""

        def batch(like: np.ndarray, size: int) -> jax.ShapeDtypeStruct:
            shape = (size, *like.shape[1:])
            return jax.ShapeDtypeStruct(shape, like.dtype, sharding=self.devices.batch)

        images = batch(self.images, self.batch_size)
        self._features = compile_ahead(threads, self._features, state.params, images)
        if size := self._held_out_batch:
            inputs = batch(self.images, size), batch(self.labels, size), 0
            self._masked_losses = compile_ahead(threads, self._masked_losses, state, *inputs)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns all metrics by name.

        `held_out/*` are means over fixed images under fixed random masks, the same for every mask
        strategy, so that runs can be compared. `logistic` and `knn`, on standardised features,
        need labels.
        """
        params = state.params
        test = self.features(params, self.images)
        check_finite_features(test, f"the student after step {int(state.step)}")
        numbers = {"rank_me": rank_me(test)} | self.held_out(state)
        if self.labelled:
            numbers |= self._told(self.features(params, self.bank), test)
        return numbers

    def raw_pixels(self) -> dict[str, float]:
        """Returns the same measures on raw pixels, as a baseline; {} without labels."""
        if not self.labelled:
            return {}
        told = self._told(pixel_features(self.bank), pixel_features(self.images))
        return {f"raw_pixels/{name}": value for name, value in told.items()}

    def baselines(self, state: TrainState) -> dict[str, float]:
        """Returns the baselines: raw pixels, and hidden patches filled in without a model."""
        return self.raw_pixels() | self.filled(state)

    def filled(self, state: TrainState) -> dict[str, float]:
        """Returns the variance explained by simple fillings of hidden patches; {} for clips."""
        if self.images.ndim != 4 or not len(self.images):
            return {}
        found = measure_fillings(self.method, state, self.images)
        return {f"filled/{name}": value for name, value in found.items()}

    def _told(self, bank: np.ndarray, queries: np.ndarray) -> dict[str, float]:
        o = self.options
        found = tell(
            bank, self.bank_labels, queries, self.labels, o.penalty, o.neighbors, o.temperature
        )
        return found.accuracies()

    def features(self, params: Params, images: np.ndarray) -> np.ndarray:
        """Computes pooled features `[N, D]` of images `[N, H, W, C]` in batches."""

        def encode(part: np.ndarray) -> Array:
            return self._features(params, self.devices.put_whole(part))

        return in_batches(encode, self.batch_size, images)

    @property
    def _held_out_batch(self) -> int:
        """Number of held-out images in a batch; 0 if there are fewer than devices."""
        return min(self.batch_size, len(self.images) // self.devices.count * self.devices.count)

    def held_out(self, state: TrainState) -> dict[str, float]:
        """Computes the losses on held-out images, over whole batches, and the explained variance.

        `explained` is the explained fraction of the target's variance at hidden patches; there is
        none where a direction or nothing is predicted, see `Method.predicts_values`. `contrast` is
        the ranking accuracy of the standard deviation of a patch's pixels as a predictor.
        """
        size = self._held_out_batch
        sums: dict[str, float] = {}
        parts = []
        starts = range(0, len(self.images) - size + 1, size) if size else ()
        for start in starts:
            some = slice(start, start + size)
            images, labels = map(self.devices.put_whole, (self.images[some], self.labels[some]))
            losses, part = self._masked_losses(state, images, labels, start)
            parts.append(part)
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in losses.items()}
        if not parts:
            return {}
        found = summarize(parts)
        numbers = {name: value / len(starts) for name, value in sums.items()}
        numbers |= {name: found[name] for name in ("explained", "contrast") if name in found}
        return {f"held_out/{name}": value for name, value in numbers.items()}
