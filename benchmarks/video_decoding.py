"""Compare ways to read a clip from a video file, on one core.

The files are written first: 10 seconds of 340 x 256 at 30 frames a second, H.264 as x264 makes it
by default (a keyframe every 250 frames, three B-frames) and with a keyframe every 30. A texture
wanders behind noise, which makes about the bit rate given as `--kilobits`. Every way reads the same
frames, drawn once from a seed. The time is process CPU time; the ratio is the median of the ratios
within each repeat.

    python -m benchmarks.video_decoding
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image

from hpm_jax.config import Data
from hpm_jax.data.clips import SAMPLINGS
from hpm_jax.data.geometry import cut
from hpm_jax.data.transforms import CROPS
from hpm_jax.data.video import Video

HEIGHT, WIDTH, FRAMES, RATE = 256, 340, 300, 30
DENSE = Data(frames=16, frame_stride=4, crop="multi_scale")
SEGMENTS = Data(frames=16, sampling="segments", crop="multi_scale")


def scene(seed):
    """The frames of one video: uint8 `[height, width, 3]` each."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (HEIGHT // 12, WIDTH // 12, 3), dtype=np.uint8)
    texture = Image.fromarray(coarse).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC)
    texture, phase = np.asarray(texture).astype(np.int16), rng.uniform(0, 6, 2)
    for number in range(FRAMES):
        top = int(HEIGHT / 2 * (1 + np.sin(number / 40 + phase[0])))
        left = int(WIDTH / 2 * (1 + np.sin(number / 55 + phase[1])))
        grain = rng.normal(0, 4, (HEIGHT, WIDTH, 1)).astype(np.int16)
        frame = texture[top : top + HEIGHT, left : left + WIDTH] + grain
        yield frame.clip(0, 255).astype(np.uint8)


def write(path, seed, keyframes, kilobits):
    """Writes one scene as H.264."""
    with av.open(str(path), "w") as container:
        options = {"g": str(keyframes)}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.bit_rate = WIDTH, HEIGHT, 1000 * kilobits
        for array in scene(seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())


def read_everything(path, numbers):
    """The plain loop: all frames to RGB, then those that are wanted."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[numbers]


def decode_everything(path, numbers):
    """All frames decoded by one thread, and those that are wanted to RGB."""
    wanted = set(np.ravel(numbers).tolist())
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        frames = {
            number: frame.to_ndarray(format="rgb24", threads=1)
            for number, frame in enumerate(container.decode(video=0))
            if number in wanted
        }
    return np.stack([frames[number] for number in np.ravel(numbers)]).reshape(
        *numbers.shape, HEIGHT, WIDTH, 3
    )


def read_video(path, numbers):
    """The package's reader."""
    with Video(path.read_bytes()) as video:
        return video.read(numbers)


METHODS = {
    "all frames to RGB": read_everything,
    "all frames, wanted to RGB": decode_everything,
    "Video": read_video,
}
TASKS = {
    "1 clip of 16 x 4": (DENSE, 1),
    "4 clips of 16 x 4": (DENSE, 4),
    "16 segments": (SEGMENTS, 1),
}


def measure(work, repeats):
    """Seconds of each method, `[repeats]`, after all have been seen to give the same frames."""
    for path, numbers in work:
        expected = read_everything(path, numbers)
        assert all((read(path, numbers) == expected).all() for read in METHODS.values())
    seconds = {name: [] for name in METHODS}
    for _ in range(repeats):
        for name, read in METHODS.items():
            start = time.process_time()
            for path, numbers in work:
                read(path, numbers)
            seconds[name].append((time.process_time() - start) / len(work))
    return seconds


def resizing(repeats):
    """Seconds that the crops of one clip take, in the middle of many boxes."""
    rng, times = np.random.default_rng(0), []
    frames = list(itertools.islice(scene(0), DENSE.frames))
    for _ in range(10 * repeats):
        box = CROPS[DENSE.crop](rng, HEIGHT, WIDTH, DENSE)
        start = time.process_time()
        for frame in frames:
            cut(frame, box, DENSE)
        times.append(time.process_time() - start)
    return statistics.median(times)


def main():
    """Write the files, time every method on every task, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8, help="number of videos of each kind")
    parser.add_argument("--kilobits", type=int, default=600, help="bit rate in kbit/s")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"crop and resize 16 frames to 224 x 224: {1000 * resizing(args.repeats):.1f} ms")
        for keyframes in (250, 30):
            paths = [Path(folder) / f"{keyframes}_{n}.mp4" for n in range(args.videos)]
            for seed, path in enumerate(paths):
                write(path, seed, keyframes, args.kilobits)
            size = sum(path.stat().st_size for path in paths) / len(paths)
            print(f"\nA keyframe every {keyframes}, {8 * size * RATE / FRAMES / 1000:.0f} kb/s")
            print(f"{'task':<20}{'method':<28}{'ms':>8}{'videos/s':>10}{'ratio':>8}")
            for task, (data, clips) in TASKS.items():
                rng = np.random.default_rng(0)
                draw = SAMPLINGS[data.sampling].random
                work = [
                    (path, np.stack([draw(rng, FRAMES, data) for _ in range(clips)]))
                    for path in paths
                ]
                seconds = measure(work, args.repeats)
                for name, times in seconds.items():
                    base = seconds["all frames to RGB"]
                    ratio = statistics.median(a / b for a, b in zip(base, times, strict=True))
                    each = statistics.median(times)
                    print(f"{task:<20}{name:<28}{1000 * each:8.1f}{1 / each:10.1f}{ratio:7.2f}x")


if __name__ == "__main__":
    main()
