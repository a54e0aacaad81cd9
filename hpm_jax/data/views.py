"""Views of a stored example: a crop or a clip, or several that are read at once."""

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
    check_finite,
    decode_label_map,
    to_8_bits,
    to_pixels,
    with_channels,
)
from hpm_jax.data.geometry import View, apply_all
from hpm_jax.data.jpeg import Part
from hpm_jax.data.rand_augment import Policy, apply, check_channels, draw
from hpm_jax.data.records import DataError, Example
from hpm_jax.data.transforms import draw_view, spread_views

if TYPE_CHECKING:
    from hpm_jax.config import Data

Stored = bytes | np.ndarray  # an encoded file, or an array [h, w, C] or [t, h, w, C]
Change = Callable[[np.ndarray], np.ndarray]  # of an image or a frame, uint8 [h, w, C]
DrawChange = Callable[[np.random.Generator], Change]
TrainView = Callable[[Example, np.random.Generator], Example]
TestView = Callable[[Example], Example]


def train_view(data: "Data", policy: Policy | None = None, color_jitter: float = 0.0) -> TrainView:
    """Returns a function from a stored example to a random view of shape `data.train_shape`.

    Pixels are uint8, or float32 with `data.value_range`.

    Label maps and boxes undergo the same crops and flips. The views of this file raise a
    `BrokenImage` for data that cannot be decoded.

    Args:
        policy: RandAugment policy, applied after crop and flip for images, and before both, on
            whole frames, for videos; None for none.
        color_jitter: strength of colour jitter, at the same point; 0 for none.
    """
    if data.frames > 1:
        view: Callable = random_clips
    else:
        view = random_crop if data.clips == 1 else random_crops
    return functools.partial(view, data=data, draw_change=_changes(data, policy, color_jitter))


def test_view(data: "Data", clips: int = 1, crops: int = 1) -> TestView:
    """Returns a function from a stored example to a fixed view of `test_shape(data, clips, crops)`.

    Args:
        clips: number of clips of a video, spread over its length; one is in its middle.
        crops: number of crops of a clip or image, along the longer side; one is centred.
    """
    if data.frames == 1:
        if crops == 1:
            return functools.partial(center_crop, data=data)
        return functools.partial(several_crops, data=data, crops=crops)
    return functools.partial(spread_clips, data=data, clips=clips, crops=crops)


def test_shape(data: "Data", clips: int = 1, crops: int = 1) -> tuple[int, ...]:
    """Returns `data.view_shape`, with a leading axis of `clips * crops` if that is not 1.

    Several views of an image are clips of one frame.
    """
    if data.frames == 1:
        return (crops, 1, *data.view_shape) if crops > 1 else data.view_shape
    return ((clips * crops,) if clips * crops > 1 else ()) + data.view_shape


def random_crop(
    example: Example, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> Example:
    """Returns a random crop of an image: `[H, W, C]`."""
    _check_change(example, draw_change)
    example = opened(example, data)
    view = draw_view(rng, *image_size(example["image"]), data)
    seen = apply_view(example, view, data)
    return {**seen, "image": draw_change(rng)(seen["image"])}


def opened(example: Example, data: "Data") -> Example:
    """Returns the example with its image file opened, of which the header has been read."""
    stored = example["image"]
    if not isinstance(stored, bytes):
        return example
    return {**example, "image": EncodedImage(stored, data.max_pixels)}


def apply_view(example: Example, view: View, data: "Data") -> Example:
    """Applies a view without a window to an opened image and its annotations: `[H, W, C]`.

    Of a JPEG file only the crop is decoded, of a large one at a fraction of its size.
    """
    image, eighths = example["image"], 8
    if isinstance(image, EncodedImage):
        needed = (MARGIN * view.size[0], MARGIN * view.size[1])
        eighths = image.smallest_scale(view.box.height, view.box.width, needed)
    at_scale = view.scaled(eighths / 8)
    part = at_scale.part()
    seen = at_scale.within(part).apply_image(image_pixels(image, data, eighths, part))
    crop = to_pixels(seen, data.value_range)
    return {**_annotations(example, view, image_size(image)), "image": crop}


def image_pixels(
    image: EncodedImage | np.ndarray, data: "Data", eighths: int = 8, part: Part | None = None
) -> np.ndarray:
    """Returns `[h, w, data.channels]`: uint8, or the values of the file with a value range.

    Args:
        eighths: scale at which a JPEG file is decoded.
        part: the pixels to return, of the scaled image; None for all.
    """
    deep = bool(data.value_range)
    if isinstance(image, EncodedImage) and image.is_jpeg:
        return image.pixels(data.channels, eighths, part=part)
    if isinstance(image, EncodedImage):
        pixels = image.pixels(data.channels, deep=deep)
    else:
        pixels = with_channels(image if deep else to_8_bits(image), data.channels)
    check_finite(pixels)  # all of them, whatever part is used
    return pixels if part is None else part.of(pixels)


def random_crops(
    example: Example, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> Example:
    """Returns `data.clips` random crops of an image, as clips of one frame: `[R, 1, H, W, C]`."""
    stored = example["image"]
    if isinstance(stored, bytes):
        stored = image_pixels(EncodedImage(stored, data.max_pixels), data)
    whole = {**example, "image": stored}
    crops = _stacked([random_crop(whole, rng, data, draw_change) for _ in range(data.clips)])
    return {key: crop[:, None] if key in SEEN else crop for key, crop in crops.items()}


def image_size(image: EncodedImage | np.ndarray) -> tuple[int, int]:
    """Returns height and width."""
    if isinstance(image, EncodedImage):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def center_crop(example: Example, data: "Data") -> Example:
    """Returns the centre crop of an image: `[H, W, C]`."""
    return _spread_crops(example, data, 1)[0]


def several_crops(example: Example, data: "Data", crops: int) -> Example:
    """Returns crops along the longer side of an image, as clips of one frame: `[V, 1, H, W, C]`."""
    seen = _stacked(_spread_crops(example, data, crops))
    return {key: value[:, None] if key in SEEN else value for key, value in seen.items()}


def _spread_crops(example: Example, data: "Data", crops: int) -> list[Example]:
    image = example["image"]
    if isinstance(image, bytes):
        image = EncodedImage(image, data.max_pixels)
    image = image_pixels(image, data)
    size = image.shape[:2]
    views = spread_views(size[0], size[1], data, crops)
    seen = zip(views, apply_all(views, image), strict=True)
    return [
        {
            **_annotations(example, view, size),
            "image": to_pixels(pixels, data.value_range),
        }
        for view, pixels in seen
    ]


SEEN = ("image", "label_map", "boxes")  # the keys of an example that a view changes


def _annotations(
    example: Example, view: View, size: tuple[int, int], numbers: np.ndarray | None = None
) -> Example:
    """Returns everything but the image as arrays, with the view applied to label maps and boxes.

    Args:
        size: height and width of the image.
        numbers: for a video, numbers of the frames in the view, `[T]`.
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
    """A clip that has been drawn but not read."""

    numbers: np.ndarray  # frame numbers, [T]
    view: View  # the same in every frame
    change: Change  # applied to each whole frame, before the crop


def random_clips(
    example: Example, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> Example:
    """Returns a clip, `[T, H, W, C]`, or several independently augmented ones, `[R, T, ...]`.

    Several clips have different times or the same frames (`data.repeats`). Each frame is decoded
    once, and freed after it has been augmented and cropped.
    """
    _check_change(example, draw_change)
    clips = np.empty((data.clips, *data.view_shape), data.pixel_dtype)
    with _opened(example["image"], data.max_pixels) as video:
        size = video.height, video.width
        draws = _draw_clips(video, rng, data, draw_change)
        for number, frame in video.frames(np.stack([draw.numbers for draw in draws])):
            frame = image_pixels(frame, data)
            for clip, draw in zip(clips, draws, strict=True):
                here = draw.numbers == number
                if here.any():
                    crop = draw.view.apply_image(draw.change(frame))
                    clip[here] = to_pixels(crop, data.value_range)
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
    """Stacks views of one example along a new leading axis: `[V, ...]`."""
    seen = {key: np.stack([view[key] for view in views]) for key in SEEN if key in views[0]}
    return {**views[0], **seen}


def spread_clips(example: Example, data: "Data", clips: int, crops: int) -> Example:
    """Returns clips spread over a video, cropped along the longer side: `[V, T, H, W, C]`.

    The crops of a clip are adjacent. A single view has no leading axis: `[T, H, W, C]`.
    """
    pixels = np.empty((clips, crops, *data.view_shape), data.pixel_dtype)
    with _opened(example["image"], data.max_pixels) as video:
        size = video.height, video.width
        views = spread_views(*size, data, crops)
        numbers = SAMPLINGS[data.sampling].spread(len(video), data, clips)
        for number, frame in video.frames(numbers):
            clip, time = np.nonzero(numbers == number)
            seen_frame = np.stack(apply_all(views, image_pixels(frame, data)))
            pixels[clip, :, time] = to_pixels(seen_frame, data.value_range)
    seen = [
        {**_annotations(example, view, size, numbers[clip]), "image": pixels[clip, crop]}
        for clip in range(clips)
        for crop, view in enumerate(views)
    ]
    return seen[0] if len(seen) == 1 else _stacked(seen)


class FramesInMemory:
    """A video in an array, with the interface of `video.Video`; an image has one frame."""

    def __init__(self, array: np.ndarray):
        """Takes an `array` `[t, h, w, C]`, or `[h, w, C]`."""
        self.array = array if array.ndim == 4 else array[None]
        self.height, self.width = self.array.shape[1:3]

    def __len__(self) -> int:
        return len(self.array)

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields each of the frames once, in order: its number and `[h, w, C]`."""
        return ((int(number), self.array[number]) for number in np.unique(indices))


def _opened(stored: Stored, max_pixels: int) -> contextlib.AbstractContextManager[Any]:
    if isinstance(stored, np.ndarray):
        return contextlib.nullcontext(FramesInMemory(stored))
    from hpm_jax.data.video import Video  # imports PyAV, which images do not need

    return Video(stored, max_pixels)


VIDEO_FILL = 128  # value of pixels outside a frame that RandAugment moves (rand_augment.py)


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
    """Raises a `DataError` if an augmentation would move pixels but not their annotations."""
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
