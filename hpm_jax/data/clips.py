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


def random_linspace(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """Frames evenly from end to end of `reach(data)` frames, as VideoMAE fine-tunes: `[T]`.

    The last frame of the reach is the last of the clip, so that frames are a little more than
    `data.frame_stride` apart. A shorter video is read from end to end in as many frames as the
    stride allows, and its last frame is repeated. (kinetics.py, loadvideo_decord)
    """
    length = reach(data)
    if count > length:
        start = int(rng.integers(count - length))
        places = np.linspace(start, start + length, data.frames)
        return np.minimum(places, start + length - 1).astype(np.int64)
    few = count // data.frame_stride
    places = np.concatenate([np.linspace(0, count, few), np.full(data.frames - few, count)])
    return np.minimum(places, count - 1).astype(np.int64)


def spread_linspace(count: int, data: "Data", clips: int) -> np.ndarray:
    """Clips of every `data.frame_stride`-th frame of the video, as VideoMAE tests: `[clips, T]`.

    Starts are spread evenly over those frames; one clip is centred. The last of them is repeated
    where there are fewer than a clip needs. (kinetics.py, mode "test")
    """
    kept = np.arange(0, count, data.frame_stride)
    room = max(0, len(kept) - data.frames)
    starts = [int(clip * room / (clips - 1)) for clip in range(clips)] if clips > 1 else [room // 2]
    places = np.array(starts)[:, None] + np.arange(data.frames)
    return kept[np.minimum(places, len(kept) - 1)]


def random_mae_st(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """Frames evenly from the first to the last of `reach(data)` frames, as mae_st trains: `[T]`.

    The start is a real number, and frames are those that the places fall into; of a shorter video
    the last frame is repeated. Its change of the stride with the frame rate is left out: Kinetics
    mostly has the 30 frames a second for which the stride is given. (util/decoder/decoder.py)
    """
    return _span(rng.uniform(0, max(0, count - reach(data))), count, data)


def spread_mae_st(count: int, data: "Data", clips: int) -> np.ndarray:
    """Clips a whole number of frames apart from the first on, as mae_st tests: `[clips, T]`."""
    room = max(0, count - reach(data))
    step = room // (clips - 1) if clips > 1 else 0
    starts = [step * clip for clip in range(clips)] if clips > 1 else [room // 2]
    return np.stack([_span(start, count, data) for start in starts])


def _span(start: float, count: int, data: "Data") -> np.ndarray:
    places = np.linspace(start, start + reach(data) - 1, data.frames)
    return np.clip(places, 0, count - 1).astype(np.int64)


# config.data.sampling
SAMPLINGS: dict[str, Sampling] = {
    "dense": Sampling(random_dense, spread_dense),
    "linspace": Sampling(random_linspace, spread_linspace),
    "mae_st": Sampling(random_mae_st, spread_mae_st),
    "segments": Sampling(random_segments, spread_segments),
}


def reach(data: "Data") -> int:
    """How many frames a video must have for a clip that repeats none."""
    return data.frames * (1 if data.sampling == "segments" else data.frame_stride)
