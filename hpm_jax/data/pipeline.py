"""The input pipeline: batches as a function of (seed, step)."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from absl import flags, logging

from hpm_jax.data.decoding import MOST_PIXELS, BrokenImage, TooLarge, why_too_large
from hpm_jax.data.handover import HandedOver
from hpm_jax.data.rand_augment import Policy
from hpm_jax.data.reading import Reader
from hpm_jax.data.shared_memory import claim, use_prefix
from hpm_jax.data.sources import DataError, Example, Records
from hpm_jax.data.views import TestView, TrainView, test_shape, test_view, train_view

if TYPE_CHECKING:
    from hpm_jax.config import Data, Run

NAMED = 5  # number of unreadable images listed in a message
ATTEMPTS = 8  # number of images tried for one row of a batch
NO_LABEL = np.array(-1, np.int32)


@dataclasses.dataclass(frozen=True)
class LoadForTraining(HandedOver, grain.transforms.RandomMap):
    """Maps an index to a random view; a broken image is replaced by one drawn with the same key."""

    records: Records
    view: TrainView
    shape: tuple[int, ...]  # shape of a view
    dtype: str = "uint8"  # dtype of its pixels

    def random_map(self, index: int, rng: np.random.Generator) -> Example:
        broken = np.full(ATTEMPTS, -1, np.int64)
        for attempt in range(ATTEMPTS):
            try:
                example = self.view(self.records[int(index)], rng)
                return {
                    "label": NO_LABEL,
                    **example,
                    "broken": broken,
                    "index": np.array(index, np.int64),
                }
            except (BrokenImage, OSError):
                broken[attempt] = index
                index = int(rng.integers(len(self.records)))
        return {**self.blank, "broken": broken, "index": np.array(index, np.int64)}

    @functools.cached_property
    def blank(self) -> Example:
        """Returns the placeholder for an unreadable image."""
        return blank_of(
            self.records,
            lambda one: self.view(one, np.random.default_rng()),
            self.shape,
            self.dtype,
        )


@dataclasses.dataclass(frozen=True)
class LoadForTesting(HandedOver, grain.transforms.Map):
    """Maps a place to a fixed view and its label; a broken image becomes a black one of weight 0.

    Index -1, which pads the last batch, also becomes a black image of weight 0.
    """

    records: Records
    view: TestView
    shape: tuple[int, ...]  # shape of a view
    indices: np.ndarray  # index of the record at each place
    dtype: str = "uint8"  # dtype of its pixels

    def map(self, place: int) -> Example:
        index = int(self.indices[place])
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
        """Returns the placeholder for an unreadable image and for padding."""
        return blank_of(self.records, self.view, self.shape, self.dtype)


def blank_of(
    records: Records, view: Callable[[Example], Example], shape: tuple[int, ...], dtype: str
) -> Example:
    """Returns a black image `shape` without label, and zeros for other keys of the examples."""
    for index in range(min(ATTEMPTS, len(records))):
        try:
            example = view(records[index])
        except (BrokenImage, OSError):
            continue
        return {key: np.zeros_like(value) for key, value in example.items()} | {"label": NO_LABEL}
    return {"image": np.zeros(shape, dtype), "label": NO_LABEL}


class BrokenImages:
    """Counts and lists unreadable images, and stops a run that has too many."""

    def __init__(
        self,
        records: Records,
        max_share: float,
        max_pixels: int = MOST_PIXELS,
        count: int | None = None,
    ):
        """Starts a count.

        Args:
            records: the images.
            max_share: largest fraction of unreadable images.
            max_pixels: largest number of pixels of an image.
            count: number of records that are read; None for all.
        """
        self.records, self.max_share, self.max_pixels = records, max_share, max_pixels
        self.count = len(records) if count is None else count
        self.names: dict[int, str] = {}

    def add(self, indices: np.ndarray) -> list[str]:
        """Adds a batch's `broken` entries; returns the names not reported before.

        Raises:
            DataError: if there are more broken images than allowed, or no image is left.
        """
        fresh = [int(index) for index in np.unique(indices) if 0 <= index not in self.names]
        self.names |= {index: self._name(index) for index in fresh}
        hopeless = indices.ndim == 2 and bool((indices >= 0).all(axis=1).any())
        found, none_left = len(self.names), len(self.names) >= self.count
        if hopeless or none_left or found > max(1, self.max_share * self.count):
            listed = ", ".join(list(self.names.values())[:NAMED])
            more = f" and {found - NAMED} more" if found > NAMED else ""
            what = "and no image is left" if none_left else "more than"
            allowed = "" if none_left else f" config.data.max_broken = {self.max_share:g} allows"
            raise DataError(
                f"{found} of {self.count} images cannot be read, {what}{allowed}: {listed}{more}; "
                "repair or remove them, or allow more"
            )
        return [self.names[index] for index in fresh]

    def _name(self, index: int) -> str:
        """Returns the name of a record, with the reason if it is too large."""
        name = self.records.name(index)
        try:
            image = self.records[index]["image"]
            reason = why_too_large(image, self.max_pixels) if isinstance(image, bytes) else ""
        except TooLarge as error:  # the message names the file
            return str(error)
        except BrokenImage as error:
            reason = str(error)
        except OSError:
            reason = ""
        return f"{name} ({reason})" if reason else name


class Share(grain.MapDataset):
    """The rows of each global batch that this process loads, in sequence."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: np.ndarray | None):
        """Takes `rows`, indices into a batch; None for all of them."""
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
    view: TrainView | None = None,
) -> Reader:
    """Returns endless batches from step `start` on: `image`, `label`, `index` and `broken`.

    `image` is uint8, or float32 with `config.data.value_range`. `label` is int32 `[B]`. `index` is
    int64 `[B]`, the record of each image. `broken` is int64 `[B, 8]`, the records that could not be
    read.

    `image` is `[B, H, W, C]`; for videos `[B, T, H, W, C]`, or `[B, R, T, H, W, C]` if
    `config.data.clips` R is more than 1. Other keys of the source's examples are included:
    `label_map [B, H, W]` and `boxes [B, N, 4]`, under the same view as the image.

    A global batch depends only on the seed and the step: not on the number of processes, workers or
    threads, nor on where a run was stopped. B is this process's part of it.

    Args:
        config: the options of a training task.
        rows: which images of each global batch this process loads; None for all.
        policy: RandAugment policy; None for none. See `train_view`.
        repeats: number of consecutive steps that receive each batch, which is loaded once.
        color_jitter: strength of colour jitter; 0 for none.
        view: replaces `train_view`, and with it the two augmentations.
    """
    data = config.data
    view = view or train_view(data, policy, color_jitter)
    load = LoadForTraining(records, view, data.train_shape, data.pixel_dtype)
    dataset = grain.MapDataset.range(len(records)).seed(config.seed)
    dataset = dataset.shuffle().repeat()
    dataset = dataset.random_map(load)
    share = Share(dataset, config.optimizer.batch_size, rows)
    first, seen = divmod(start, repeats)
    stream = _parallel(share.batch(len(share.rows))[first:], config.run)
    if repeats > 1:
        stream = grain.experimental.FlatMapIterDataset(stream, Repeat(repeats))
    batches = iter(stream)
    batches.start_prefetch()  # load batches while the step is compiled
    reader = Reader(batches)
    for _ in range(seen):
        next(reader)
    return reader


@dataclasses.dataclass(frozen=True)
class Repeat(grain.experimental.FlatMapTransform):
    """Repeats each batch."""

    max_fan_out: int

    def flat_map(self, element: Any) -> list[Any]:
        return [element] * self.max_fan_out


def evaluation_batches(
    records: Records,
    data: "Data",
    run: "Run",
    batch_size: int,
    rows: np.ndarray | None = None,
) -> Reader:
    """Returns every record once, in batches `image`, `label`, `weight` and `broken` of one size.

    `image` is uint8 `[B, H, W, C]`; for videos `[B, T, H, W, C]`, or `[B, V, T, H, W, C]` if
    `data.test_clips * data.test_crops`, V, is more than 1.

    The last batch is padded with images of weight 0, so that every process has the same number of
    batches of the same size: of `batch_size` images, this process loads `rows`.
    """
    count = -(-len(records) // batch_size) * batch_size
    indices = np.pad(np.arange(len(records)), (0, count - len(records)), constant_values=-1)
    views = (data, data.test_clips, data.test_crops)
    view, shape = test_view(*views), test_shape(*views)
    load = LoadForTesting(records, view, shape, indices, data.pixel_dtype)
    share = Share(grain.MapDataset.range(count).map(load), batch_size, rows)
    return Reader(iter(_parallel(share.batch(len(share.rows)), run)))


def test_images(
    records: Records, indices: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Loads centre crops: images uint8 `[N, H, W, C]`, labels int32 `[N]`, unreadable names.

    For videos it is the clip in the middle: `[N, T, H, W, C]`.

    Raises:
        DataError: if no image is requested, or more than `config.data.max_broken` cannot be read.
    """
    if not len(indices):
        raise DataError("the split holds no images to measure: give a test split that has some")
    data = config.data
    load = LoadForTesting(records, test_view(data), test_shape(data), indices, data.pixel_dtype)
    dataset = grain.MapDataset.range(len(indices)).map(load)
    dataset = dataset.batch(config.evaluation.batch_size)
    batches = list(Reader(iter(_parallel(dataset, config.run))))
    image, label, broken = (
        np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "broken")
    )
    whole = broken < 0
    tracker = BrokenImages(records, data.max_broken, data.max_pixels, len(indices))
    return image[whole], label[whole], tracker.add(broken)


def _parallel(dataset: grain.MapDataset, run: "Run") -> grain.IterDataset:
    """Loads in threads of this process, or in worker processes; the order is the same."""
    options = grain.ReadOptions(num_threads=run.threads, prefetch_buffer_size=run.prefetch)
    if not run.workers:
        return dataset.to_iter_dataset(options)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, also from a notebook
    single = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    workers = grain.MultiprocessingOptions(
        num_workers=run.workers, per_worker_buffer_size=run.prefetch
    )
    return dataset.to_iter_dataset(single).mp_prefetch(
        workers, functools.partial(_prepare_worker, claim())
    )


def _prepare_worker(prefix: str, index: int, count: int) -> None:
    """Prepares a worker process for the end of the run, whether it exits, is stopped or is killed.

    Args:
        prefix: prefix of the names of shared memory.
        index, count: index and number of workers, from grain.
    """
    use_prefix(prefix)
    logging.set_verbosity(logging.ERROR)  # the console is the run's
    warnings.filterwarnings("ignore", module="PIL")  # of each odd file, in each worker
    # Ctrl-C and SIGTERM also reach workers, which must continue until the run has stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def follow(run):
        run.join()
        os._exit(1)

    # a killed run does not end its workers
    run = multiprocessing.parent_process()
    threading.Thread(target=follow, args=(run,), daemon=True).start()
