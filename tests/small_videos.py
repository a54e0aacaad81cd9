"""Video files in which every frame shows its number, and options for the tests of videos."""

from fractions import Fraction

import av
import numpy as np

from hpm_jax.config import Data

BITS = 8


def numbered(number, height=64, width=96):
    """A frame that shows a number below 256: two rows of four blocks, bright for 1."""
    bits = [number >> bit & 1 for bit in range(BITS)]
    blocks = np.array(bits, np.uint8).reshape(2, 4) * 170 + 40
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 4 // width
    return np.repeat(blocks[rows][:, columns][..., None], 3, axis=-1)


def numbers_in(frames):
    """The numbers that frames `[..., h, w, C]` show, after any compression."""
    height, width = frames.shape[-3:-1]
    rows, columns = [height // 4, height * 3 // 4], [width * k // 8 for k in (1, 3, 5, 7)]
    lit = frames[..., rows, :, :][..., columns, :].mean(-1) > 125
    return (lit.reshape(*frames.shape[:-3], BITS) * 2 ** np.arange(BITS)).sum(-1)


def write_video(
    path,
    count=40,
    codec="libx264",
    size=(64, 96),
    rate=25,
    options=None,
    pixels="yuv420p",
    times=None,
    frames=None,
):
    """Writes `count` numbered frames; `times` in milliseconds for a variable rate."""
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            array = numbered(number, height, width) if frames is None else frames[number]
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(sources, target, change=lambda packet, number, part: packet, options=None):
    """Writes the packets of files, one after the other and changed, without coding them anew."""
    with av.open(str(target), "w", options=options or {}) as out, av.open(str(sources[0])) as first:
        copy = out.add_stream_from_template(first.streams.video[0])
        for part, path in enumerate(sources):
            with av.open(str(path)) as source:
                whole = (packet for packet in source.demux(video=0) if packet.size)
                for number, packet in enumerate(whole):
                    packet = change(packet, number, part)
                    packet.stream = copy
                    out.mux(packet)
    return target


def write_sound(path):
    """A second of silence, and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = np.zeros((1, 8000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path):
    """Every frame, in the plainest way: uint8 `[frames, h, w, 3]`."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def video_data(**data):
    """Options of small clips of four frames."""
    small = {"source": "video_folder", "image_size": (16, 16), "frames": 4, "frame_stride": 2}
    return Data(**small | data)
