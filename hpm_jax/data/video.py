"""Decodes video files to frames by number; docs/data.md describes method and speed."""

import contextlib
import io
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from hpm_jax.data.decoding import MOST_PIXELS, BrokenImage, TooLarge, check_pixels

WHOLE = 0.9  # fraction of its stated duration that a Matroska file must contain
UPRIGHT = (1, 0, 0, 1)  # the display matrix of most videos


class BrokenVideo(BrokenImage):
    """A file is not a complete video."""


class Video:
    """A video file in memory; its frames are decoded on demand.

    Frame i is the i-th to be shown, by the timestamps, evenly spaced or not. In a file without
    usable timestamps it is the i-th frame that the decoder returns. Use it in a `with` block, which
    frees it.

    Attributes:
        height, width: in pixels, upright.
        seconds: when each frame is shown, float64 `[frames]`, ascending.

    Raises:
        BrokenVideo: for anything but a complete video of two frames or more.
    """

    def __init__(self, source: bytes | str | os.PathLike, max_pixels: int = MOST_PIXELS):
        """Opens a video.

        Args:
            source: the bytes of the file, or its path; in both cases it is in memory while in use.
            max_pixels: largest number of pixels of a frame.
        """
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with _broken_for_a_reason(), contextlib.ExitStack() as stack:
            container = av.open(io.BytesIO(data), options={"fflags": "+genpts"})
            stack.callback(container.close)
            stream = _video_stream(container)
            stream.thread_count = 1  # the pipeline decodes several videos in parallel
            self._context, self._rgb = stream.codec_context, VideoReformatter()
            check_pixels(self._context.width, self._context.height, max_pixels)
            self._packets = _whole_packets(container, stream, len(data))
            self._list_frames(container, stream)
            self._look_at_the_first()
            self._close = stack.pop_all().close

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *error) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self.seconds)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the frames at `indices` `[...]`, in order: uint8 `[..., height, width, 3]`."""
        frames = dict(self.frames(indices))
        array = np.stack([frames[int(index)] for index in np.ravel(indices)])
        return array.reshape(*np.shape(indices), *array.shape[1:])

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields each of the frames once, in order: its number and uint8 `[height, width, 3]`.

        Decoding starts at the last keyframe before a frame and skips frames from which no other is
        predicted. Only the requested frames are converted to RGB.

        Raises:
            BrokenVideo: if a frame, or one from which it may be predicted, is damaged.
        """
        wanted = np.unique(indices)
        left = set(wanted.tolist())
        decoded = self._by_time(wanted) if self._timed else self._by_count(wanted)
        with _broken_for_a_reason():
            for number, frame in decoded:
                if frame.is_corrupt:
                    raise BrokenVideo("damaged frames")
                if number in left:
                    left.remove(number)
                    yield number, _upright(self._pixels(frame), self._matrix)
            if left:
                first = min(left)
                raise BrokenVideo(f"no frame {first}, at {self.seconds[first]:.3f} s")

    def _by_time(self, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields decoded frames from the required keyframes on, with their numbers or -1."""
        for start in np.unique(self._starts[wanted]).tolist():
            group = wanted[self._starts[wanted] == start]
            numbers = dict(zip(self._timestamps[group].tolist(), group.tolist(), strict=True))
            stop = int(self._positions[group].max()) + 1
            for frame in self._decode(self._packets[start:stop], numbers.keys()):
                yield numbers.get(frame.pts, -1), frame

    def _by_count(self, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields frames from the first to the last wanted one, numbered in decoding order."""
        for number, frame in enumerate(self._decode(self._packets, None)):
            yield number, frame
            if number == wanted[-1]:
                return

    def _decode(self, packets: list[Any], wanted: Set[int] | None) -> Iterator[av.VideoFrame]:
        """Decodes packets, the first a keyframe, for the wanted timestamps or (None) for all."""
        self._context.flush_buffers()
        for packet in packets:
            needless = wanted is not None and packet.pts not in wanted
            self._context.skip_frame = "NONREF" if needless else "DEFAULT"
            yield from self._context.decode(packet)
        yield from self._context.decode(None)

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = self._size
        return self._rgb.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()

    def _list_frames(self, container: Any, stream: Any) -> None:
        """Records which packet holds which frame, and where its decoding starts."""
        shown = [n for n, packet in enumerate(self._packets) if _is_shown(packet, self._context)]
        if len(shown) < 2:
            raise BrokenVideo(f"too short: {len(shown)} frame(s), and a video has two or more")
        found = [packet.pts for packet in self._packets]
        # AVI has no timestamps, and those that FFmpeg derives for reordered frames may be wrong
        guessed = container.format.name == "avi" and self._context.has_b_frames
        distinct = None not in found and len({found[n] for n in shown}) == len(shown)
        self._timed = distinct and not guessed
        if not self._timed:
            self.seconds = np.arange(len(shown)) / float(stream.average_rate or 1)
            return
        timestamps = np.array(found)
        self._positions = np.array(sorted(shown, key=timestamps.__getitem__))
        self._timestamps = timestamps[self._positions]
        self.seconds = self._timestamps * float(stream.time_base)
        keys = np.array([n for n, packet in enumerate(self._packets) if packet.is_keyframe] or [0])
        before = np.searchsorted(timestamps[keys], self._timestamps, side="right") - 1
        self._starts = np.where(before < 0, 0, keys[before])

    def _look_at_the_first(self) -> None:
        """Decodes the first frame, which has the size and the rotation."""
        first = next(self._decode(self._packets, None), None)
        if first is None:
            raise BrokenVideo("no frame can be decoded")
        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        self._matrix = np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]] if matrix else UPRIGHT
        self._size = first.width, first.height
        self.height, self.width = _upright(np.empty(self._size[::-1], bool), self._matrix).shape


@contextlib.contextmanager
def _broken_for_a_reason() -> Iterator[None]:
    """Converts PyAV's errors for damaged bytes to a `BrokenVideo`."""
    try:
        yield
    except (BrokenVideo, TooLarge):
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise BrokenVideo(str(error)) from error


def _video_stream(container: Any) -> Any:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise BrokenVideo("no video in it, at most sound")
    if streams[0].codec_context is None:
        raise BrokenVideo("video of an unknown kind")
    return streams[0]


def _whole_packets(container: Any, stream: Any, size: int) -> list[Any]:
    """Returns the compressed frames in a file of `size` bytes, in decoding order."""
    beyond = any(entry.pos + entry.size > size for entry in stream.index_entries)
    packets = [packet for packet in container.demux() if packet.size]
    if beyond or any(packet.is_corrupt for packet in packets):
        raise BrokenVideo("truncated")
    if container.format.name.startswith("matroska") and container.duration:
        # the format lists no frame sizes, so a truncated file looks like a short one
        ends = [
            (p.pts + (p.duration or 0)) * float(p.time_base) for p in packets if p.pts is not None
        ]
        there, stated = max(ends, default=0.0), container.duration / av.time_base
        if there < WHOLE * stated:
            raise BrokenVideo(f"truncated: {there:.1f} s of {stated:.1f} s")
    return [packet for packet in packets if packet.stream_index == stream.index]


def _is_shown(packet: Any, context: Any) -> bool:
    """Whether a packet's frame is shown, rather than only used to predict others."""
    hidden = context.name == "vp8" and not bytes(packet)[0] & 0x10  # show_frame, RFC 6386, 9.1
    return not (hidden or packet.is_discard)


def _upright(array: np.ndarray, matrix: Any) -> np.ndarray:
    """Turns and mirrors `[h, w, ...]` by (a, b, c, d) of FFmpeg's display matrix.

    It shows the pixel (x, y) at (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if abs(b) > abs(a):
        array, a, d = array.swapaxes(0, 1), c, b
    return array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
