"""Detects objects in the images of a split, and scores them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.config import Detect
from hpm_jax.data.decoding import BrokenImage, to_pixels
from hpm_jax.data.detect_views import fitted, whole_view
from hpm_jax.data.detected import Detected
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.views import image_pixels
from hpm_jax.detection.masks import paste
from hpm_jax.detection.proposals import choose
from hpm_jax.detection.rasters import pycocotools
from hpm_jax.evaluation.coco_scores import CocoScores, Detections, Pair, coco_scores
from hpm_jax.evaluation.segmenting import in_threads
from hpm_jax.models import Detector
from hpm_jax.models.detector import BOX_BINS, MASK_BINS
from hpm_jax.models.stack import as_they_are
from hpm_jax.run.devices import Devices
from hpm_jax.step.detect_step import find_proposals, pool
from hpm_jax.step.state import Params
from hpm_jax.tokens import Tokenizer

# (parameters, images [B, H, W, C], sizes [B, 2]) -> boxes, scores, classes, and masks or None
Detecting = Callable[[Params, Any, Any], tuple[Any, Any, Any, Any]]


def detector_function(config: Detect, model: Detector, tokenizer: Tokenizer) -> Detecting:
    """Builds the function of a detector; parameters are whole, also after sharded training.

    Returns:
        `(parameters, images, sizes) -> (boxes [B, K, 4], scores [B, K], classes [B, K], masks
        [B, K, 28, 28])`, in pixels of the padded image. A score is 0 where there is no detection;
        masks are probabilities over the boxes, None without a head of masks.
    """
    whole, scoring = model.clone(gather=as_they_are), config.evaluation
    per_level, count = config.model.test_level_proposals, config.model.proposals

    def detect(params, images, sizes):
        def apply(method: str, *inputs: Any) -> Any:
            return whole.apply({"params": params}, *inputs, method=method)

        levels = apply("levels", tokenizer(images))
        regions = apply("find_regions", levels)
        proposals = find_proposals(whole, regions, sizes, per_level, count)
        pooled = pool(whole, levels, proposals.boxes, BOX_BINS)
        logits, deltas = (
            x.reshape(len(images), -1, *x.shape[1:]) for x in apply("find_boxes", pooled)
        )

        def one(logits, deltas, proposals, size):
            limits = scoring.lowest_score, scoring.overlap, scoring.candidates, scoring.detections
            return choose(logits, deltas, proposals, size, *limits)

        found = jax.vmap(one)(logits, deltas, proposals, sizes)
        masks = None
        if model.masks:
            logits = apply("find_masks", pool(whole, levels, found.boxes, MASK_BINS))
            own = found.classes.reshape(-1, 1, 1, 1)
            masks = jax.nn.sigmoid(jnp.take_along_axis(logits, own, axis=-1)[..., 0])
            masks = masks.reshape(len(images), -1, *masks.shape[1:])
        return found.boxes, found.scores, found.classes, masks

    return detect


class Shown(NamedTuple):
    """An image with its objects, to be drawn."""

    pixels: np.ndarray  # [h, w, C], uint8, or float32 with a value range
    pair: Pair


class DetectMeter:
    """Holds a compiled function of padded images, and scores parameters at the images' own size.

    Images are padded to one size, so nothing is compiled again. Each process loads its rows of
    every batch, and all of them get all detections, so that they agree about the scores.
    """

    def __init__(
        self,
        config: Detect,
        detect: Detecting,
        records: Detected,
        classes: int,
        devices: Devices,
    ):
        self.config, self.records, self.classes, self.devices = config, records, classes, devices
        self.unread: list[str] = []  # names of unreadable images of this process
        self.batch_size = devices.round_up(config.evaluation.batch_size)
        self._detect = jax.jit(
            lambda params, images, sizes: (sizes, *detect(params, images, sizes)),
            out_shardings=devices.replicated,
        )
        self._whole = jax.jit(lambda params: params, out_shardings=devices.replicated)

    def __call__(self, params: Params) -> dict[str, CocoScores]:
        """Returns the scores of boxes, and of masks if they are predicted.

        They are those of all readable images.

        Raises:
            DataError: for more unreadable images than are allowed.
        """
        pairs = [pair for _, pair in self.pairs(params, np.arange(len(self.records)))]
        kinds = ("box", "mask") if self.config.model.masks else ("box",)
        return {kind: coco_scores(pairs, self.classes, kind) for kind in kinds}

    def pairs(self, params: Params, indices: np.ndarray) -> Iterator[tuple[int, Pair]]:
        """Yields index, truth and detections of the images at `indices` that can be read.

        Every process has to call it at the same time.
        """
        self.unread = []
        config = self.config
        broken = BrokenImages(self.records, config.data.max_broken, config.data.max_pixels)
        here = self._whole(params)
        rows = self.devices.rows(self.batch_size)
        batches = -(-len(indices) // self.batch_size)
        padded = np.pad(indices, (0, batches * self.batch_size - len(indices)), mode="edge")
        mine = padded.reshape(batches, self.batch_size)[:, rows].ravel()
        loaded = in_threads(self._load, mine, config.run.threads)
        for batch in range(batches):
            views = []
            for _ in rows:
                view, failed = next(loaded).result()
                self.unread += broken.add(np.array([failed]))
                views.append(view)
            arrays = [
                self.devices.put(np.stack([view[key] for view in views]))
                for key in ("image", "size")
            ]
            sizes, *outputs = jax.device_get(self._detect(here, *arrays))
            first = batch * self.batch_size
            for place, index in enumerate(indices[first : first + self.batch_size]):
                if sizes[place].all():
                    one: list[Any] = [None if x is None else x[place] for x in outputs]
                    yield int(index), self._pair(int(index), *one)

    def _load(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        """Returns the padded image, and -1; or a black image of the size 0, and `index`."""
        data = self.config.data
        try:
            return whole_view(self.records[int(index)], data), -1
        except (BrokenImage, OSError):
            blank = np.zeros(data.view_shape, data.pixel_dtype)
            return {"image": blank, "size": np.zeros(2, np.float32)}, int(index)

    def _pair(
        self,
        index: int,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        masks: np.ndarray | None,
    ) -> Pair:
        """Detections of one image in its own pixels, with the truth."""
        truth, size = self.records.truth(index)
        scaled = fitted(size, self.config.data.image_size)
        factors = np.array([size[1] / scaled[1], size[0] / scaled[0]] * 2)
        there = scores > 0
        boxes = boxes[there] * factors
        lengths = None
        if masks is not None:
            encode = pycocotools("a mask").encode
            pasted = (paste(mask, box, size) for mask, box in zip(masks[there], boxes, strict=True))
            lengths = tuple(encode(np.asfortranarray(one, dtype=np.uint8)) for one in pasted)
        return Pair(truth, Detections(boxes, scores[there], classes[there], lengths), size)

    def shown(self, params: Params, indices: np.ndarray) -> list[Shown]:
        """Returns the readable images at `indices` with their objects, to be drawn."""
        found = []
        for index, pair in self.pairs(params, indices):
            image = image_pixels(self.records[index]["image"], self.config.data)
            found.append(Shown(to_pixels(image, self.config.data.value_range), pair))
        return found
