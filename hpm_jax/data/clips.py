"""Which frames of a video make a clip: numbers of frames, whatever their timestamps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from hpm_jax.config import Data


class Sampling(NamedTuple):
    """How clips are taken from a video of `count` frames; both give int64 numbers of frames."""

    random: Callable[[np.random.Generator, int, "Data"], np.ndarray]  # for training: [T]
    spread: Callable[[int, "Data", int], np.ndarray]  # so many, over the whole video: [clips, T]


def random_dense(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """`data.frames` frames, `data.frame_stride` apart, from a random start: `[T]`.

    The start leaves room for the stride after the last frame too. A video shorter than that is
    read from its first frame, and the last frame reached is repeated. Both as VideoMAE
    pre-trains (kinetics.py).
    """
    start = rng.integers(max(0, count - reach(data)) + 1)
    return _dense(int(start), count, data)


def spread_dense(count: int, data: "Data", clips: int) -> np.ndarray:
    """Dense clips whose starts are spread evenly from first to last: `[clips, T]`; one: centred."""
    room = max(0, count - reach(data))
    starts = [room * clip // (clips - 1) for clip in range(clips)] if clips > 1 else [room // 2]
    return np.stack([_dense(start, count, data) for start in starts])


def _dense(start: int, count: int, data: "Data") -> np.ndarray:
    last = (count - 1 - start) // data.frame_stride
    return start + data.frame_stride * np.minimum(np.arange(data.frames), last)


def random_segments(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """One frame, at random, of each of `data.frames` equal segments: `[T]` (TSN, Wang et al. 2016).

    The segments are parts of the video of equal length, not of whole frames: every frame has its
    chance, and a video of fewer frames repeats some.
    """
    places = np.arange(data.frames) + rng.random(data.frames)
    return np.minimum(places * count / data.frames, count - 1).astype(np.int64)


def spread_segments(count: int, data: "Data", clips: int) -> np.ndarray:
    """Clip v takes each segment's frame at the share `v / clips` of it: `[clips, T]`.

    One clip takes the middles. That is VideoMAE's test of one or two clips (ssv2.py).
    """
    segments = np.arange(data.frames)
    if clips == 1:
        return ((2 * segments + 1) * count // (2 * data.frames))[None]
    shares = np.arange(clips)[:, None]
    return (clips * segments + shares) * count // (clips * data.frames)


# config.data.sampling
SAMPLINGS: dict[str, Sampling] = {
    "dense": Sampling(random_dense, spread_dense),
    "segments": Sampling(random_segments, spread_segments),
}


def reach(data: "Data") -> int:
    """How many frames a video must have for a clip that repeats none."""
    return data.frames * (data.frame_stride if data.sampling == "dense" else 1)
