"""What is seen of a stored image or video: a crop or a clip, or several that are read at once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.color_jitter import draw_color_jitter
from hpm_jax.data.decoding import EncodedImage, with_channels
from hpm_jax.data.rand_augment import Policy, apply, check_channels, draw
from hpm_jax.data.transforms import CROPS, Box, cut, mirror, spread_crops, test_crop, train_crop

if TYPE_CHECKING:
    from hpm_jax.config import Data

Stored = bytes | np.ndarray  # an encoded file, or uint8 [h, w, C] or [t, h, w, C]
Change = Callable[[np.ndarray], np.ndarray]  # of an image or a frame, uint8 [h, w, C]
DrawChange = Callable[[np.random.Generator], Change]
TrainView = Callable[[Stored, np.random.Generator], np.ndarray]
TestView = Callable[[Stored], np.ndarray]


def train_view(data: "Data", policy: Policy | None = None, color_jitter: float = 0.0) -> TrainView:
    """From what is stored to uint8 `data.train_shape`, at random.

    The views of this file raise a `BrokenImage` for what cannot be decoded.

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
    """From what is stored to uint8 `test_shape(data, clips, crops)`, always the same.

    Args:
        clips: of a video, spread over its length; 1 is in its middle.
        crops: of each clip, along the longer side of its frames; 1 is in the centre.
    """
    if data.frames == 1:
        return functools.partial(test_crop, data=data)
    return functools.partial(spread_clips, data=data, clips=clips, crops=crops)


def test_shape(data: "Data", clips: int = 1, crops: int = 1) -> tuple[int, ...]:
    """`data.view_shape`, of a video with an axis of `clips * crops` before it, if that is not 1."""
    views = clips * crops if data.frames > 1 else 1
    return ((views,) if views > 1 else ()) + data.view_shape


def random_crop(
    stored: Stored, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> np.ndarray:
    """A crop of an image: `[H, W, C]`."""
    crop = train_crop(stored, rng, data)
    return draw_change(rng)(crop)


def random_crops(
    stored: Stored, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> np.ndarray:
    """`data.clips` crops of an image, each a clip of one frame: `[R, 1, H, W, C]`."""
    image = EncodedImage(stored).pixels(data.channels) if isinstance(stored, bytes) else stored
    crops = [random_crop(image, rng, data, draw_change) for _ in range(data.clips)]
    return np.stack(crops)[:, None]


class Draw(NamedTuple):
    """A clip that is yet to be read."""

    numbers: np.ndarray  # of its frames, [T]
    change: Change  # of each whole frame, before the crop
    box: Box  # the same in every frame
    flip: bool


def random_clips(
    stored: Stored, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> np.ndarray:
    """A clip of a video, `[T, H, W, C]`, or several, each augmented by itself: `[R, T, ...]`.

    Several have times of their own, or those of the first (`data.repeats`). Each frame that any of
    them needs is decoded once, and kept no longer than to be augmented and cropped.
    """
    clips = np.empty((data.clips, *data.view_shape), np.uint8)
    with _opened(stored) as video:
        draws = _draw_clips(video, rng, data, draw_change)
        for number, frame in video.frames(np.stack([draw.numbers for draw in draws])):
            frame = with_channels(frame, data.channels)
            for clip, draw in zip(clips, draws, strict=True):
                here = draw.numbers == number
                if here.any():
                    clip[here] = cut(draw.change(frame), draw.box, data)
    for clip, draw in zip(clips, draws, strict=True):
        if draw.flip:
            clip[:] = mirror(clip)
    return clips[0] if data.clips == 1 else clips


def _draw_clips(
    video: Any, rng: np.random.Generator, data: "Data", draw_change: DrawChange
) -> list[Draw]:
    draws: list[Draw] = []
    for _ in range(data.clips):
        if draws and data.repeats == "frames":
            numbers = draws[0].numbers
        else:
            numbers = SAMPLINGS[data.sampling].random(rng, len(video), data)
        box = CROPS[data.crop](rng, video.height, video.width, data)
        flip = rng.random() < data.flip
        draws.append(Draw(numbers, draw_change(rng), box, flip))
    return draws


def spread_clips(stored: Stored, data: "Data", clips: int, crops: int) -> np.ndarray:
    """Clips over the length of a video, each cropped along its longer side: `[V, T, H, W, C]`.

    The crops of a clip stand together. One alone comes without its axis: `[T, H, W, C]`.
    """
    views = np.empty((clips, crops, *data.view_shape), np.uint8)
    with _opened(stored) as video:
        numbers = SAMPLINGS[data.sampling].spread(len(video), data, clips)
        for number, frame in video.frames(numbers):
            clip, time = np.nonzero(numbers == number)
            views[clip, :, time] = spread_crops(with_channels(frame, data.channels), data, crops)
    return views.reshape(test_shape(data, clips, crops))


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


def _draw_nothing(rng: np.random.Generator) -> Change:
    return _as_it_is


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image
