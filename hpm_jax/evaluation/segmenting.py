"""Segments whole images of a split and scores them; every process takes its share of the images."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hpm_jax.data.decoding import BrokenImage, to_pixels
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.segmented import Segmented
from hpm_jax.data.views import image_pixels
from hpm_jax.evaluation.confusion import Scores, count_pixels, scores_of, sum_over_processes
from hpm_jax.evaluation.windows import Canvas, ImageView, Window, choose, cut, views_of
from hpm_jax.models import Segmenter
from hpm_jax.models.stack import as_they_are
from hpm_jax.run.devices import Devices
from hpm_jax.step.state import Params
from hpm_jax.tokens import Tokenizer


class Segmentation(NamedTuple):
    """A segmented image."""

    place: int  # of the record
    pixels: np.ndarray  # [h, w, C], uint8, or float32 with a value range
    truth: np.ndarray  # int16 [h, w], negative where a pixel is left out
    predicted: np.ndarray  # int16 [h, w]


class _Open(NamedTuple):
    """An image whose windows are on their way."""

    place: int
    pixels: np.ndarray
    truth: np.ndarray
    canvases: list[Canvas]


# (parameters, images [B, H, W, C]) -> scores of each patch, [B, h, w, classes], or of finer cells
Logits = Callable[[Params, Any], Any]


def segmenter_logits(model: Segmenter, tokenizer: Tokenizer) -> Logits:
    """Builds `(variables, images) -> logits`; see `hpm_jax.step.segment_step.variables_of`.

    Parameters are whole, also after sharded training.
    """
    whole = model.clone(gather=as_they_are)
    return lambda variables, images: whole.apply(variables, tokenizer(images))


class SegmentMeter:
    """Holds a compiled function of windows, and scores parameters at the images' own size.

    Images are shared among the processes, and their windows among the devices of a process, so
    that processes wait for each other only once, to add their confusion matrices.
    """

    def __init__(self, config: Any, logits: Logits, records: Segmented, devices: Devices):
        self.config, self.records, self.devices = config, records, devices
        self.classes = records.classes
        self.unread: list[str] = []  # names of unreadable images of this process
        self._replicated, self._batch = local_shardings()
        count = len(jax.local_devices())
        self.batch_size = -(-config.evaluation.batch_size // count) * count
        self._logits = jax.jit(logits, out_shardings=self._batch)
        self._whole = jax.jit(lambda params: params, out_shardings=devices.replicated)

    def __call__(self, params: Params) -> Scores:
        """Returns the scores over all labelled pixels of all readable images.

        Raises:
            DataError: for a wrong label map, more unreadable images than are allowed, or no
                labelled pixel.
        """
        self.unread = []
        matrix = np.zeros((self.classes, self.classes), np.int64)
        mine = np.arange(jax.process_index(), len(self.records), jax.process_count())
        for one in self.segment(params, mine):
            matrix += count_pixels(one.truth, one.predicted, self.classes)
        return scores_of(sum_over_processes(matrix))

    def segment(self, params: Params, indices: np.ndarray) -> Iterator[Segmentation]:
        """Yields the images at `indices`, segmented, without unreadable ones.

        Every process has to call it at the same time, as parameters may be sharded.
        """
        here = jax.device_put(jax.device_get(self._whole(params)), self._replicated)
        computed = self._computed(here, indices)
        for one in in_threads(_finish, computed, self.config.run.threads):
            yield one.result()

    def _computed(self, params: Params, indices: np.ndarray) -> Iterator[_Open]:
        """Yields the images in order, as soon as the logits of all their windows are there."""
        waiting: collections.deque[tuple[Canvas, Window, np.ndarray]] = collections.deque()
        unfinished: collections.deque[_Open] = collections.deque()

        def compute(count: int) -> None:
            some = [waiting.popleft() for _ in range(count)]
            images = np.stack([pixels for _, _, pixels in some])
            missing = self.batch_size - count
            images = np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
            found = jax.device_get(self._logits(params, jax.device_put(images, self._batch)))
            for (canvas, window, _), logits in zip(some, found, strict=False):
                canvas.add(window, logits)

        for one in self._opened(indices):
            unfinished.append(one)
            for canvas in one.canvases:
                for window in canvas.view.windows:
                    waiting.append((canvas, window, cut(canvas.view, window, self.config.data)))
            while len(waiting) >= self.batch_size:
                compute(self.batch_size)
            while unfinished and all(canvas.is_whole for canvas in unfinished[0].canvases):
                yield unfinished.popleft()
        while waiting:
            compute(min(self.batch_size, len(waiting)))
        yield from unfinished

    def _opened(self, indices: np.ndarray) -> Iterator[_Open]:
        """Yields the images with their views, in order, without unreadable ones."""
        config = self.config
        broken = BrokenImages(self.records, config.data.max_broken, config.data.max_pixels)
        for place, loaded in enumerate(in_threads(self._load, indices, config.run.threads)):
            try:
                pixels, truth, views = loaded.result()
            except (BrokenImage, OSError):
                fresh = broken.add(np.array([indices[place]]))
                self.unread += [name for name in fresh if name not in self.unread]
                continue
            canvases = [Canvas(view, config.data.image_size) for view in views]
            yield _Open(int(indices[place]), pixels, truth, canvases)

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray, list[ImageView]]:
        data = self.config.data
        example = self.records[int(index)]
        pixels = to_pixels(image_pixels(example["image"], data), data.value_range)
        return pixels, example["label_map"], views_of(pixels, self.config)


def _finish(one: _Open) -> Segmentation:
    return Segmentation(one.place, one.pixels, one.truth, choose(one.canvases, one.truth.shape))


def in_threads(
    function: Callable[[Any], Any], items: Iterable[Any], threads: int
) -> Iterator[concurrent.futures.Future]:
    """Yields the outcome of `function` for each item, in order, at most `threads` ahead."""
    started: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for item in items:
            started.append(pool.submit(function, item))
            if len(started) > threads:
                yield started.popleft()
        while started:
            yield started.popleft()


def local_shardings() -> tuple[NamedSharding, NamedSharding]:
    """Returns the shardings of parameters and of a batch over the devices of this process."""
    local = Mesh(np.array(jax.local_devices()), ("data",))
    return NamedSharding(local, PartitionSpec()), NamedSharding(local, PartitionSpec("data"))
