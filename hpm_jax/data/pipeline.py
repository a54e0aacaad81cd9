"""Batches as a function of (seed, step): shuffle, repeat, load by index, shard, batch."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from absl import flags

from hpm_jax.data.decoding import BrokenImage
from hpm_jax.data.rand_augment import Policy
from hpm_jax.data.sources import DataError, Example, Records
from hpm_jax.data.views import TestView, TrainView, test_shape, test_view, train_view

if TYPE_CHECKING:
    from hpm_jax.config import Data, Run

ATTEMPTS = 8  # images tried for one place in a batch before the run gives up
NO_LABEL = np.array(-1, np.int32)


@dataclasses.dataclass(frozen=True)
class LoadForTraining(grain.transforms.RandomMap):
    """Index to a random view; a broken image gives way to another, drawn by the same key."""

    records: Records
    view: TrainView
    shape: tuple[int, ...]  # of a view

    def random_map(self, index: int, rng: np.random.Generator) -> Example:
        broken = np.full(ATTEMPTS, -1, np.int64)
        for attempt in range(ATTEMPTS):
            try:
                example = self.view(self.records[int(index)], rng)
                return {"label": NO_LABEL, **example, "broken": broken}
            except (BrokenImage, OSError):
                broken[attempt] = index
                index = int(rng.integers(len(self.records)))
        return {**self.blank, "broken": broken}

    @functools.cached_property
    def blank(self) -> Example:
        """Stands in a batch for what cannot be read."""
        return blank_of(
            self.records, lambda one: self.view(one, np.random.default_rng()), self.shape
        )


@dataclasses.dataclass(frozen=True)
class LoadForTesting(grain.transforms.Map):
    """Index to a fixed view and its label; a broken image becomes a black one of weight 0.

    So does index -1, which fills up the last batch.
    """

    records: Records
    view: TestView
    shape: tuple[int, ...]  # of a view

    def map(self, index: int) -> Example:
        weight, broken = np.array(0.0, np.float32), -1
        example = None
        try:
            if index >= 0:
                example = {"label": NO_LABEL, **self.view(self.records[int(index)])}
                weight = np.array(1.0, np.float32)
        except (BrokenImage, OSError):
            broken = index
        example = self.blank if example is None else example
        return {**example, "weight": weight, "broken": np.array(broken, np.int64)}

    @functools.cached_property
    def blank(self) -> Example:
        """Stands in a batch for what cannot be read, and for nothing."""
        return blank_of(self.records, self.view, self.shape)


def blank_of(
    records: Records, view: Callable[[Example], Example], shape: tuple[int, ...]
) -> Example:
    """A black image `shape` without label, and zeros for what else the examples have."""
    for index in range(min(ATTEMPTS, len(records))):
        try:
            example = view(records[index])
        except (BrokenImage, OSError):
            continue
        return {key: np.zeros_like(value) for key, value in example.items()} | {"label": NO_LABEL}
    return {"image": np.zeros(shape, np.uint8), "label": NO_LABEL}


class BrokenImages:
    """Names and counts the images that could not be read, and stops a run that has too many."""

    def __init__(self, records: Records, max_share: float):
        self.records, self.max_share = records, max_share
        self.names: dict[int, str] = {}

    def add(self, indices: np.ndarray) -> list[str]:
        """Takes a batch's `broken` entries; returns the names not seen before.

        Raises:
            DataError: where the share of broken images is more than allowed.
        """
        fresh = [int(index) for index in np.unique(indices) if 0 <= index not in self.names]
        self.names |= {index: self.records.name(index) for index in fresh}
        hopeless = indices.ndim == 2 and bool((indices >= 0).all(axis=1).any())
        if hopeless or len(self.names) > max(1, self.max_share * len(self.records)):
            listed = "\n  ".join(list(self.names.values())[:10])
            raise DataError(
                f"{len(self.names)} of {len(self.records)} images cannot be read, more than "
                f"config.data.max_broken = {self.max_share:g} allows:\n  {listed}\n"
                "Repair or remove them, or allow more."
            )
        return [self.names[index] for index in fresh]


class Share(grain.MapDataset):
    """The rows of each global batch that this process loads, one after the other."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: np.ndarray | None):
        """`rows` are indices into a batch; None for all of them."""
        super().__init__(parent)
        self.batch_size = batch_size
        self.rows = np.arange(batch_size) if rows is None else rows

    def __len__(self) -> int:
        return len(self._parent) // self.batch_size * len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        step, place = divmod(index, len(self.rows))
        return self._parent[step * self.batch_size + int(self.rows[place])]


def train_batches(
    records: Records,
    config: Any,
    start: int = 0,
    rows: np.ndarray | None = None,
    policy: Policy | None = None,
    repeats: int = 1,
    color_jitter: float = 0.0,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """Endless batches from step `start` on: `image` uint8, `label` int32 `[B]`, `broken` `[B, 8]`.

    `image` is `[B, H, W, C]`; of videos `[B, T, H, W, C]`, or `[B, R, T, H, W, C]` where
    `config.data.clips` R is more than 1. What else the examples of the source have is there too:
    `label_map [B, H, W]` and `boxes [B, N, 4]`, seen as the image is.

    A global batch depends on the seed and the step alone: not on the number of processes, workers
    or threads, nor on where a run was stopped. B is this process's share of it.

    Args:
        config: the options of a training task.
        rows: which images of each global batch this process loads; None for all.
        policy: RandAugment; None for none. See `train_view`.
        repeats: how many steps in succession get each batch, which is loaded once for them.
        color_jitter: the strength of colour jitter; 0 for none.
    """
    data = config.data
    load = LoadForTraining(records, train_view(data, policy, color_jitter), data.train_shape)
    dataset = grain.MapDataset.range(len(records)).seed(config.seed)
    dataset = dataset.shuffle().repeat()
    dataset = dataset.random_map(load)
    share = Share(dataset, config.optimizer.batch_size, rows)
    first, seen = divmod(start, repeats)
    stream = _parallel(share.batch(len(share.rows))[first:], config.run)
    if repeats > 1:
        stream = grain.experimental.FlatMapIterDataset(stream, Repeat(repeats))
    batches = iter(stream)
    batches.start_prefetch()  # what is ready by the time that the step is compiled need not wait
    for _ in range(seen):
        next(batches)
    return batches


@dataclasses.dataclass(frozen=True)
class Repeat(grain.experimental.FlatMapTransform):
    """A batch to as many of the same."""

    max_fan_out: int

    def flat_map(self, element: Any) -> list[Any]:
        return [element] * self.max_fan_out


def evaluation_batches(
    records: Records,
    data: "Data",
    run: "Run",
    batch_size: int,
    rows: np.ndarray | None = None,
) -> grain.IterDataset:
    """Every record once, in batches `image`, `label`, `weight` and `broken` of one size.

    `image` is uint8 `[B, H, W, C]`; of videos `[B, T, H, W, C]`, or `[B, V, T, H, W, C]` where
    `data.test_clips * data.test_crops`, V, is more than 1.

    The last batch is filled up with images of weight 0, so that every process has as many batches
    of as many images: of `batch_size`, this process loads `rows`.
    """
    count = -(-len(records) // batch_size) * batch_size
    indices = np.pad(np.arange(len(records)), (0, count - len(records)), constant_values=-1)
    dataset = grain.MapDataset.source([int(index) for index in indices])
    views = (data, data.test_clips, data.test_crops)
    load = LoadForTesting(records, test_view(*views), test_shape(*views))
    share = Share(dataset.map(load), batch_size, rows)
    return _parallel(share.batch(len(share.rows)), run)


def test_images(
    records: Records, indices: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Centre crops in memory: images uint8 `[N, H, W, C]`, labels int32 `[N]`, names left out.

    Of videos it is the clip in the middle: `[N, T, H, W, C]`.
    """
    dataset = grain.MapDataset.source([int(index) for index in indices])
    load = LoadForTesting(records, test_view(config.data), test_shape(config.data))
    dataset = dataset.map(load)
    dataset = dataset.batch(config.evaluation.batch_size)
    batches = list(_parallel(dataset, config.run))
    image, label, broken = (
        np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "broken")
    )
    whole = broken < 0
    return image[whole], label[whole], [records.name(int(index)) for index in broken[~whole]]


def _parallel(dataset: grain.MapDataset, run: "Run") -> grain.IterDataset:
    """Threads of this process, or worker processes; the order is the same."""
    options = grain.ReadOptions(num_threads=run.threads, prefetch_buffer_size=run.prefetch)
    if not run.workers:
        return dataset.to_iter_dataset(options)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, also from a notebook
    single = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    workers = grain.MultiprocessingOptions(
        num_workers=run.workers, per_worker_buffer_size=run.prefetch
    )
    return dataset.to_iter_dataset(single).mp_prefetch(workers, _live_and_die_with_the_run)


def _live_and_die_with_the_run(index: int, count: int) -> None:
    """Prepares a worker process for the end of the run, however it comes."""
    # Ctrl-C and a scheduler's SIGTERM reach workers too, which must serve until the run has stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def follow(run):
        run.join()
        os._exit(1)

    # and a run that is killed takes nobody along by itself
    run = multiprocessing.parent_process()
    threading.Thread(target=follow, args=(run,), daemon=True).start()
