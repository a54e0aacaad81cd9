"""What reads files of others, each as a function of bytes; and small files that it can read."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hpm_jax.compare.cells import read_cell
from hpm_jax.config import Data, freeze
from hpm_jax.convert.files import read_file
from hpm_jax.data.decoding import BrokenImage, EncodedImage, decode_label_map
from hpm_jax.data.jpeg import Part
from hpm_jax.data.lists import read_image_list
from hpm_jax.data.store import INDEX
from hpm_jax.data.store.read import read_store
from hpm_jax.data.video import Video
from hpm_jax.data.video_sources import read_list
from hpm_jax.errors import UserError
from hpm_jax.run.metrics import read_lines
from hpm_jax.run.workdir import read_config

MOST_PIXELS = 2**20


class Reader(NamedTuple):
    """A reader, the errors that it may answer with, and the first files of its corpus."""

    read: Callable[[bytes], Any]
    refuses: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]


def on_disk(read: Callable[[Path], Any], name: str) -> Callable[[bytes], Any]:
    """A reader of a file of that name, as one of bytes."""

    def of_bytes(data: bytes) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            return read(path)

    return of_bytes


# --- images and videos


def read_image(data: bytes) -> None:
    """All pixels, those at a quarter of the size, and a part, which an extension may decode."""
    image = EncodedImage(data, MOST_PIXELS)
    for eighths in (8, 2):
        assert image.pixels(3, eighths).dtype == np.uint8
    part = Part(image.height // 2, image.width // 2, 1, 1)
    np.testing.assert_array_equal(image.pixels(3, part=part), part.of(image.pixels(3)))


def images() -> list[bytes]:
    """One of each format, colour and grey, one with EXIF."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    found = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        for array in (pixels, pixels[..., 0]):
            file = io.BytesIO()
            Image.fromarray(array).save(file, kind)
            found.append(file.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return [*found, file.getvalue()]


def label_maps() -> list[bytes]:
    """Grey, palette and 16 bits."""
    found = []
    for image in (
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)),
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P"),
        Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)),
    ):
        file = io.BytesIO()
        image.save(file, "PNG")
        found.append(file.getvalue())
    return found


def read_video(data: bytes) -> None:
    """The first and the last frame."""
    with Video(data, MOST_PIXELS) as video:
        if len(video):
            video.read(np.array([0, len(video) - 1]))


def videos() -> list[bytes]:
    """Three frames in each container."""
    import av

    found = []
    for container, codec in (("mp4", "mpeg4"), ("avi", "mjpeg"), ("matroska", "mpeg4")):
        file = io.BytesIO()
        with av.open(file, "w", format=container) as out:
            stream = out.add_stream(codec, rate=5)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for value in (0, 100, 200):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8))
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        found.append(file.getvalue())
    return found


# --- weights


def weights(ending: str) -> Callable[[], list[bytes]]:
    """Two small arrays in a file of that kind."""

    def seeds() -> list[bytes]:
        from hpm_jax.convert.files import WRITERS

        state = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(2, np.float32)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"weights{ending}"
            WRITERS[ending](path, state, {"grid": [1, 2, 2], "heads": 2, "decoder_heads": 2})
            return [path.read_bytes()]

    return seeds


# --- lists, configs and the files of a workdir


def beside_files(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of a list that stands beside the files that it may name."""

    def of_list(path: Path) -> Any:
        for name in ("a.jpg", "b c.png", "a.mp4", "b.mp4"):
            (path.parent / name).touch()
        return read(path)

    return of_list


def in_workdir(path: Path) -> None:
    """The config of a run."""
    read_config(path.parent)


def read_call(data: bytes) -> None:
    """Any text as a mask strategy."""
    text = data.decode(errors="replace")
    freeze({"task": "pretrain", "mask": {"strategy": text}})


def read_index(path: Path) -> None:
    """The index of a store, beside its shards."""
    for name in ("train", "test"):
        (path.parent / f"{name}.array_record").write_bytes(b"")
    read_store(Data(path=str(path.parent), image_size=(8, 8)))


def texts(*found: Any) -> Callable[[], list[bytes]]:
    """Strings as they are, other things as JSON."""
    return lambda: [(x if isinstance(x, str) else json.dumps(x)).encode() for x in found]


STORE = {
    "plan": {"short_side": 16, "classes": ["a", "b"]},
    "splits": {
        name: {"shards": {f"{name}.array_record": [2, 0]}, "labels": [0, 1]}
        for name in ("train", "test")
    },
}
CELL = Path(__file__).parents[2] / "results" / "compare_cifar10" / "mae_0.json"

READERS = {
    "image": Reader(read_image, (BrokenImage,), images),
    "label_map": Reader(decode_label_map, (BrokenImage,), label_maps),
    "video": Reader(read_video, (BrokenImage,), videos),
    "safetensors": Reader(
        on_disk(read_file, "w.safetensors"), (UserError,), weights(".safetensors")
    ),
    "npz": Reader(on_disk(read_file, "w.npz"), (UserError,), weights(".npz")),
    "image_list": Reader(
        on_disk(beside_files(read_image_list), "train.txt"),
        (UserError,),
        texts("a.jpg 0\nb c.png 1\n", "a.jpg\n"),
    ),
    "video_list": Reader(
        on_disk(beside_files(read_list), "train.csv"),
        (UserError,),
        texts("a.mp4 0\nb.mp4 1\n", "a.mp4,0\n"),
    ),
    "config": Reader(
        on_disk(in_workdir, "config.json"),
        (UserError,),
        texts(
            {"task": "pretrain", "seed": 3}, {"task": "pretrain", "data": {"std": [0.5, 0.5, 0.5]}}
        ),
    ),
    "call": Reader(
        read_call,
        (UserError,),
        texts("hard", "beit_block(attempts=8)", "hard(start=0.5, schedule='step')"),
    ),
    "store": Reader(on_disk(read_index, INDEX), (UserError,), texts(STORE)),
    "metrics": Reader(
        on_disk(read_lines, "metrics.jsonl"), (), texts('{"step": 1, "loss": 0.5}\n{"step": 2}\n')
    ),
    "cell": Reader(on_disk(read_cell, CELL.name), (UserError,), lambda: [CELL.read_bytes()]),
}
