"""What is seen of a stored example: a crop or a clip, or several that are read at once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.color_jitter import draw_color_jitter
from hpm_jax.data.decoding import (
    MARGIN,
    BrokenImage,
    EncodedImage,
    decode_label_map,
    with_channels,
)
from hpm_jax.data.geometry import View
from hpm_jax.data.rand_augment import Policy, apply, check_channels, draw
from hpm_jax.data.records import DataError, Example
from hpm_jax.data.transforms import draw_view, spread_views

if TYPE_CHECKING:
    from hpm_jax.config import Data

Stored = bytes | np.ndarray  # an encoded file, or uint8 [h, w, C] or [t, h, w, C]
Change = Callable[[np.ndarray], np.ndarray]  # of an image or a frame, uint8 [h, w, C]
DrawChange = Callable[[np.random.Generator], Change]
TrainView = Callable[[Example, np.random.Generator], Example]
TestView = Callable[[Example], Example]


def train_view(data: "Data", policy: Policy | None = None, color_jitter: float = 0.0) -> TrainView:
    """From an example as it is stored to one whose `image` is uint8 `data.train_shape`, at random.

    Label maps and boxes go through the same crops and flips. The views of this file raise a
    `BrokenImage` for what cannot be decoded.

    Args:
        policy: RandAugment, after crop and flip for images and before both, on whole frames, for
            videos; None for none.
        color_jitter: its strength, in the same place; 0 for none.
    """
    if data.frames > 1:
        view: Callable = random_clips
    else:
        view = random_crop if data.clips == 1 else random_crops
    return functools.partial(view, data=data, draw_change=_changes(data, policy, color_jitter))


def test_view(data: "Data", clips: int = 1, crops: int = 1) -> TestView:
    """From an example as it is stored to one of `test_shape(data, clips, crops)`, always the same.

    Args:
        clips: of a video, spread over its length; 1 is in its middle.
        crops: of each clip or image, along the longer side; 1 is in the centre.
    """
    if data.frames == 1:
        if crops == 1:
            return functools.partial(center_crop, data=data)
        return functools.partial(several_crops, data=data, crops=crops)
    return functools.partial(spread_clips, data=data, clips=clips, crops=crops)


def test_shape(data: "Data", clips: int = 1, crops: int = 1) -> tuple[int, ...]:
    """`data.view_shape`, with an axis of `clips * crops` before it, if that is not 1.

    Several views of an image are clips of one frame.
    """
    if data.frames == 1:
        return (crops, 1, *data.view_shape) if crops > 1 else data.view_shape
    return ((clips * crops,) if clips * crops > 1 else ()) + data.view_shape


def random_crop(
    example: Example, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> Example:
    """A crop of an image: `[H, W, C]`."""
    _check_change(example, draw_change)
    stored = example["image"]
    image = EncodedImage(stored) if isinstance(stored, bytes) else stored
    height, width = _size(image)
    view = draw_view(rng, height, width, data)
    if isinstance(image, EncodedImage):
        needed = (MARGIN * view.size[0], MARGIN * view.size[1])
        eighths = image.smallest_scale(view.box.height, view.box.width, needed)
        pixels, at_scale = image.pixels(data.channels, eighths), view.scaled(eighths / 8)
    else:
        pixels, at_scale = image, view
    crop = at_scale.apply_image(with_channels(pixels, data.channels))
    return {**_annotations(example, view, (height, width)), "image": draw_change(rng)(crop)}


def random_crops(
    example: Example, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> Example:
    """`data.clips` crops of an image, each a clip of one frame: `[R, 1, H, W, C]`."""
    stored = example["image"]
    image = EncodedImage(stored).pixels(data.channels) if isinstance(stored, bytes) else stored
    whole = {**example, "image": image}
    crops = _stacked([random_crop(whole, rng, data, draw_change) for _ in range(data.clips)])
    return {key: crop[:, None] if key in SEEN else crop for key, crop in crops.items()}


def _size(image: EncodedImage | np.ndarray) -> tuple[int, int]:
    """Height and width."""
    if isinstance(image, EncodedImage):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def center_crop(example: Example, data: "Data") -> Example:
    """The crop in the centre of an image: `[H, W, C]`."""
    return _spread_crops(example, data, 1)[0]


def several_crops(example: Example, data: "Data", crops: int) -> Example:
    """Crops along the longer side of an image, each a clip of one frame: `[V, 1, H, W, C]`."""
    seen = _stacked(_spread_crops(example, data, crops))
    return {key: value[:, None] if key in SEEN else value for key, value in seen.items()}


def _spread_crops(example: Example, data: "Data", crops: int) -> list[Example]:
    image = example["image"]
    if isinstance(image, bytes):
        image = EncodedImage(image).pixels(data.channels)
    image, size = with_channels(image, data.channels), image.shape[:2]
    views = spread_views(size[0], size[1], data, crops)
    whole = views[0]._replace(window=None).apply_image(image)
    return [{**_annotations(example, view, size), "image": view.crop(whole)} for view in views]


SEEN = ("image", "label_map", "boxes")  # the keys of an example that a view changes


def _annotations(
    example: Example, view: View, size: tuple[int, int], numbers: np.ndarray | None = None
) -> Example:
    """Everything but the image, as arrays: label maps and boxes as they are seen.

    Args:
        size: height and width of the image.
        numbers: of a video, those of the frames that are seen, `[T]`.
    """
    seen = {key: value for key, value in example.items() if key != "image"}
    if "label" in seen:
        seen["label"] = np.array(seen["label"], np.int32)
    frames = slice(None) if numbers is None else numbers
    if "label_map" in seen:
        labels = seen["label_map"]
        labels = decode_label_map(labels) if isinstance(labels, bytes) else labels
        if labels.shape[-2:] != tuple(size):
            there, wanted = (f"{h} x {w}" for h, w in (labels.shape[-2:], size))
            raise BrokenImage(f"its label map has {there} pixels, and the image {wanted}")
        seen["label_map"] = view.apply_label_map(labels[frames])
    if "boxes" in seen:
        seen["boxes"] = view.apply_boxes(seen["boxes"][frames])
    return {key: np.asarray(value) for key, value in seen.items()}


class Draw(NamedTuple):
    """A clip that is yet to be read."""

    numbers: np.ndarray  # of its frames, [T]
    view: View  # the same in every frame
    change: Change  # of each whole frame, before the crop


def random_clips(
    example: Example, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> Example:
    """A clip of a video, `[T, H, W, C]`, or several, each augmented by itself: `[R, T, ...]`.

    Several have times of their own, or those of the first (`data.repeats`). Each frame that any of
    them needs is decoded once, and kept no longer than to be augmented and cropped.
    """
    _check_change(example, draw_change)
    clips = np.empty((data.clips, *data.view_shape), np.uint8)
    with _opened(example["image"]) as video:
        size = video.height, video.width
        draws = _draw_clips(video, rng, data, draw_change)
        for number, frame in video.frames(np.stack([draw.numbers for draw in draws])):
            frame = with_channels(frame, data.channels)
            for clip, draw in zip(clips, draws, strict=True):
                here = draw.numbers == number
                if here.any():
                    clip[here] = draw.view.apply_image(draw.change(frame))
    seen = [
        {**_annotations(example, draw.view, size, draw.numbers), "image": clip}
        for clip, draw in zip(clips, draws, strict=True)
    ]
    return seen[0] if data.clips == 1 else _stacked(seen)


def _draw_clips(
    video: Any, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> list[Draw]:
    draws: list[Draw] = []
    for _ in range(data.clips):
        if draws and data.repeats == "frames":
            numbers = draws[0].numbers
        else:
            numbers = SAMPLINGS[data.sampling].random(rng, len(video), data)
        view = draw_view(rng, video.height, video.width, data)
        draws.append(Draw(numbers, view, draw_change(rng)))
    return draws


def _stacked(views: list[Example]) -> Example:
    """Views of one example as one, with an axis before what they see: `[V, ...]`."""
    seen = {key: np.stack([view[key] for view in views]) for key in SEEN if key in views[0]}
    return {**views[0], **seen}


def spread_clips(example: Example, data: "Data", clips: int, crops: int) -> Example:
    """Clips over the length of a video, each cropped along its longer side: `[V, T, H, W, C]`.

    The crops of a clip stand together. One alone comes without its axis: `[T, H, W, C]`.
    """
    pixels = np.empty((clips, crops, *data.view_shape), np.uint8)
    with _opened(example["image"]) as video:
        size = video.height, video.width
        views = spread_views(*size, data, crops)
        numbers = SAMPLINGS[data.sampling].spread(len(video), data, clips)
        for number, frame in video.frames(numbers):
            clip, time = np.nonzero(numbers == number)
            # the views differ in their windows alone
            whole = views[0]._replace(window=None)
            resized = whole.apply_image(with_channels(frame, data.channels))
            pixels[clip, :, time] = [view.crop(resized) for view in views]
    seen = [
        {**_annotations(example, view, size, numbers[clip]), "image": pixels[clip, crop]}
        for clip in range(clips)
        for crop, view in enumerate(views)
    ]
    return seen[0] if len(seen) == 1 else _stacked(seen)


class FramesInMemory:
    """A video that is an array, as `hpm_jax.data.video.Video` is a file; an image is one frame."""

    def __init__(self, array: np.ndarray):
        """`array` is uint8 `[t, h, w, C]`, or `[h, w, C]`."""
        self.array = array if array.ndim == 4 else array[None]
        self.height, self.width = self.array.shape[1:3]

    def __len__(self) -> int:
        return len(self.array)

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each of the frames once, in order: its number and uint8 `[h, w, C]`."""
        return ((int(number), self.array[number]) for number in np.unique(indices))


def _opened(stored: Stored) -> contextlib.AbstractContextManager[Any]:
    if isinstance(stored, np.ndarray):
        return contextlib.nullcontext(FramesInMemory(stored))
    from hpm_jax.data.video import Video  # PyAV, which nobody needs for images

    return Video(stored)


VIDEO_FILL = 128  # what comes in from outside a frame that RandAugment moves (rand_augment.py)


def _changes(data: "Data", policy: Policy | None, color_jitter: float) -> DrawChange:
    if policy is not None:
        fill = tuple(round(255 * mean) for mean in data.mean)
        if data.frames > 1:
            fill = (VIDEO_FILL,) * data.channels
        check_channels(data.channels, fill)
        return functools.partial(_draw_rand_augment, policy=policy, fill=fill)
    if color_jitter:
        return functools.partial(draw_color_jitter, strength=color_jitter)
    return _draw_nothing


def _draw_rand_augment(rng: np.random.Generator, policy: Policy, fill: tuple[int, ...]) -> Change:
    drawn = draw(rng, policy)
    if not drawn:
        return _as_it_is
    return functools.partial(apply, drawn=drawn, increasing=policy.increasing, fill=fill)


def _check_change(example: Example, draw_change: DrawChange) -> None:
    """Raises a `DataError` where pixels would move and what is known of them would not."""
    known = [key for key in SEEN if key in example and key != "image"]
    if known and draw_change is not _draw_nothing:
        raise DataError(
            f"the examples have {' and '.join(known)}, which RandAugment would leave in place "
            "while it moves the image: train without it, config.augment.policy = ''."
        )


def _draw_nothing(rng: np.random.Generator) -> Change:
    return _as_it_is


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image
