"""Frame sampling: which frames of a video form a clip, by frame number."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from hpm_jax.config import Data


class Sampling(NamedTuple):
    """How clips are sampled from a video of `count` frames; both return int64 frame numbers."""

    random: Callable[[np.random.Generator, int, "Data"], np.ndarray]  # for training: [T]
    spread: Callable[
        [int, "Data", int], np.ndarray
    ]  # for evaluation: [clips, T] over the whole video


def random_dense(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """Returns `data.frames` frames, `data.frame_stride` apart, from a random start: `[T]`.

    The start also leaves room for the stride after the last frame. A shorter video is read from its
    first frame, and the last frame reached is repeated. Both as in VideoMAE's pre-training
    (kinetics.py).
    """
    start = rng.integers(max(0, count - reach(data)) + 1)
    return _dense(int(start), count, data)


def spread_dense(count: int, data: "Data", clips: int) -> np.ndarray:
    """Returns dense clips with evenly spread starts, `[clips, T]`; a single clip is centred."""
    room = max(0, count - reach(data))
    starts = [room * clip // (clips - 1) for clip in range(clips)] if clips > 1 else [room // 2]
    return np.stack([_dense(start, count, data) for start in starts])


def _dense(start: int, count: int, data: "Data") -> np.ndarray:
    last = (count - 1 - start) // data.frame_stride
    return start + data.frame_stride * np.minimum(np.arange(data.frames), last)


def random_segments(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """Returns one random frame of each of `data.frames` segments: `[T]` (TSN, Wang et al. 2016).

    The segments have equal, possibly fractional length, so every frame can be drawn. A video with
    fewer frames repeats some.
    """
    places = np.arange(data.frames) + rng.random(data.frames)
    return np.minimum(places * count / data.frames, count - 1).astype(np.int64)


def spread_segments(count: int, data: "Data", clips: int) -> np.ndarray:
    """Returns clips `[clips, T]`; clip v has each segment's frame at the fraction `v / clips`.

    A single clip has the middle frames. This is VideoMAE's test of one or two clips (ssv2.py).
    """
    segments = np.arange(data.frames)
    if clips == 1:
        return ((2 * segments + 1) * count // (2 * data.frames))[None]
    shares = np.arange(clips)[:, None]
    return (clips * segments + shares) * count // (clips * data.frames)


def random_linspace(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """Returns frames evenly spaced over `reach(data)` frames, as VideoMAE fine-tunes: `[T]`.

    The clip includes the last frame of the reach, so frames are a little more than
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
    """Returns clips of every `data.frame_stride`-th frame, as VideoMAE tests: `[clips, T]`.

    Starts are spread evenly over those frames; a single clip is centred. If there are too few
    frames, the last one is repeated. (kinetics.py, mode "test")
    """
    kept = np.arange(0, count, data.frame_stride)
    room = max(0, len(kept) - data.frames)
    starts = [int(clip * room / (clips - 1)) for clip in range(clips)] if clips > 1 else [room // 2]
    places = np.array(starts)[:, None] + np.arange(data.frames)
    return kept[np.minimum(places, len(kept) - 1)]


def random_mae_st(rng: np.random.Generator, count: int, data: "Data") -> np.ndarray:
    """Returns frames evenly spaced over `reach(data)` frames, as mae_st trains: `[T]`.

    The start is a real number, and positions are rounded down to frames. A shorter video repeats
    its last frame. Unlike in mae_st, the stride does not depend on the frame rate: Kinetics mostly
    has the 30 frames per second for which the stride is given. (util/decoder/decoder.py)
    """
    return _span(rng.uniform(0, max(0, count - reach(data))), count, data)


def spread_mae_st(count: int, data: "Data", clips: int) -> np.ndarray:
    """Returns clips that start an integer number of frames apart, as mae_st tests: `[clips, T]`."""
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
    """Returns the number of frames that a video needs for a clip without repeated frames."""
    return data.frames * (1 if data.sampling == "segments" else data.frame_stride)
