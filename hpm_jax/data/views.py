"""What is seen of a stored image or video: a crop or a clip, or several that are read at once."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.decoding import EncodedImage, with_channels
from hpm_jax.data.rand_augment import Policy, rand_augment
from hpm_jax.data.transforms import CROPS, Box, cut, mirror, spread_crops, test_crop, train_crop

if TYPE_CHECKING:
    from hpm_jax.config import Data

Stored = bytes | np.ndarray  # an encoded file, or uint8 [h, w, C] or [t, h, w, C]
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # of uint8 [..., H, W, C]
TrainView = Callable[[Stored, np.random.Generator], np.ndarray]
TestView = Callable[[Stored], np.ndarray]


def train_view(data: "Data", policy: Policy | None = None) -> TrainView:
    """From what is stored to uint8 `data.train_shape`, at random.

    The views of this file raise a `BrokenImage` for what cannot be decoded.

    Args:
        policy: RandAugment, after crop and flip; None for none.
    """
    if data.frames > 1:
        view: Callable = random_clips
    else:
        view = random_crop if data.clips == 1 else random_crops
    return functools.partial(view, data=data, change=_change(data, policy))


def test_view(data: "Data", clips: int = 1, crops: int = 1) -> TestView:
    """From what is stored to uint8 `test_shape(data, clips, crops)`, always the same.

    Args:
        clips: of a video, spread over its length; 1 is in its middle.
        crops: of each clip or image, along the longer side; 1 is in the centre.
    """
    if data.frames == 1:
        image_view = functools.partial(several_crops, crops=crops) if crops > 1 else test_crop
        return functools.partial(image_view, data=data)
    return functools.partial(spread_clips, data=data, clips=clips, crops=crops)


def test_shape(data: "Data", clips: int = 1, crops: int = 1) -> tuple[int, ...]:
    """`data.view_shape`, with an axis of `clips * crops` before it, if that is not 1.

    Several views of an image are clips of one frame.
    """
    if data.frames == 1:
        return (crops, 1, *data.view_shape) if crops > 1 else data.view_shape
    return ((clips * crops,) if clips * crops > 1 else ()) + data.view_shape


def random_crop(
    stored: Stored, rng: np.random.Generator, data: "Data", change: Change
) -> np.ndarray:
    """A crop of an image: `[H, W, C]`."""
    return change(train_crop(stored, rng, data), rng)


def random_crops(
    stored: Stored, rng: np.random.Generator, data: "Data", change: Change
) -> np.ndarray:
    """`data.clips` crops of an image, each a clip of one frame: `[R, 1, H, W, C]`."""
    image = EncodedImage(stored).pixels(data.channels) if isinstance(stored, bytes) else stored
    crops = [random_crop(image, rng, data, change) for _ in range(data.clips)]
    return np.stack(crops)[:, None]


def several_crops(stored: Stored, data: "Data", crops: int) -> np.ndarray:
    """Crops along the longer side of an image, each a clip of one frame: `[V, 1, H, W, C]`."""
    image = EncodedImage(stored).pixels(data.channels) if isinstance(stored, bytes) else stored
    return np.stack(spread_crops(with_channels(image, data.channels), data, crops))[:, None]


class Draw(NamedTuple):
    """A clip that is yet to be read."""

    numbers: np.ndarray  # of its frames, [T]
    box: Box  # the same in every frame
    flip: bool


def random_clips(
    stored: Stored, rng: np.random.Generator, data: "Data", change: Change
) -> np.ndarray:
    """A clip of a video, `[T, H, W, C]`, or several, each of its own time and crop: `[R, T, ...]`.

    Each frame that any of them needs is decoded once, and kept no longer than to be cropped.
    """
    clips = np.empty((data.clips, *data.view_shape), np.uint8)
    with _opened(stored) as video:
        draws = [_draw(video, rng, data) for _ in clips]
        for number, frame in video.frames(np.stack([draw.numbers for draw in draws])):
            for clip, draw in zip(clips, draws, strict=True):
                here = draw.numbers == number
                if here.any():
                    clip[here] = with_channels(cut(frame, draw.box, data.image_size), data.channels)
    changed = [
        change(mirror(clip) if draw.flip else clip, rng)
        for clip, draw in zip(clips, draws, strict=True)
    ]
    return changed[0] if data.clips == 1 else np.stack(changed)


def _draw(video: Any, rng: np.random.Generator, data: "Data") -> Draw:
    numbers = SAMPLINGS[data.sampling].random(rng, len(video), data)
    box = CROPS[data.crop](rng, video.height, video.width, data)
    return Draw(numbers, box, rng.random() < data.flip)


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


def _change(data: "Data", policy: Policy | None) -> Change:
    if policy is None:
        return _as_it_is
    fill = tuple(round(255 * mean) for mean in data.mean)
    return functools.partial(rand_augment, policy=policy, fill=fill)


def _as_it_is(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image
