"""The compiled extensions: pixels are those of Pillow and simplejpeg, bit for bit."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from small_images import config_of, encode, photo

from hpm_jax.data import jpeg, resizing
from hpm_jax.data.decoding import BrokenImage, EncodedImage
from hpm_jax.data.jpeg import Part, decode_jpeg
from hpm_jax.data.views import train_view
from hpm_jax.extras import compiled

REMEDY = "is not compiled: python setup.py build_ext --inplace"
needs_resize = pytest.mark.skipif(
    compiled("hpm_jax.data._resize") is None, reason=f"hpm_jax.data._resize {REMEDY}"
)
needs_jpeg = pytest.mark.skipif(
    jpeg._compiled is None, reason=f"hpm_jax.data._jpeg {REMEDY}, with jpeglib.h (libjpeg-dev)"
)


@pytest.fixture
def without(monkeypatch):
    """A function after which the extensions are as if they were not compiled."""

    def forget():
        monkeypatch.setattr(jpeg, "_compiled", None)
        monkeypatch.setattr(resizing, "_extension", lambda: None)

    return forget


# --- resize


@needs_resize
def test_the_resize_of_the_installed_pillow_is_known():
    assert resizing._extension() is not None


@needs_resize
def test_resize_is_that_of_pillow():
    rng = np.random.default_rng(0)
    for number in range(1500):
        height, width = rng.integers(1, 300 if number % 10 == 0 else 60, 2)
        channels, size = rng.choice([1, 3]), tuple(map(int, rng.integers(1, 90, 2)))
        image = rng.integers(0, 256, (height, width, channels), np.uint8)
        if number % 3 == 0:  # overshoots, which are clipped
            image = (image > 127).astype(np.uint8) * np.uint8(255)
        left, right = np.sort(rng.uniform(0, width, 2))
        top, bottom = np.sort(rng.uniform(0, height, 2))
        box = [(left, top, right, bottom), None, (int(left), int(top), width, height)][number % 3]
        method = resizing.COMPILED[number % 2]
        expected = resizing._with_pillow(image, size, box, method)
        found = resizing.resize(image, size, box, method)
        np.testing.assert_array_equal(found, expected)
        found = resizing.resize(image, size, box, method, flip=True)
        np.testing.assert_array_equal(found, expected[:, ::-1])


@needs_resize
def test_resize_reads_rows_that_are_not_adjacent_and_mirrored_pixels():
    image = photo(50, 70)
    for view in (image[5:40, 7:60], image[:, ::-1], image[::-1], image[::2]):
        expected = resizing._with_pillow(view, (21, 33), None, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(resizing.resize(view, (21, 33)), expected)


@needs_resize
@pytest.mark.parametrize(
    "source, target, box",
    [
        (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 2), np.uint8), (0, 0, 4, 4)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), np.uint8), (0, 0, 4, 4)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), (0, 0, 4, 4)),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8), (0, 0, 4, 4)),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), (0, 0, 4, 0)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), (0, 0, 4.5, 4)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), (0, -1, 4, 4)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), (3, 0, 2, 4)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), (float("nan"), 0, 4, 4)),
    ],
)
def test_the_extension_refuses_what_it_cannot_resize(source, target, box):
    with pytest.raises((ValueError, BufferError)):
        compiled("hpm_jax.data._resize").resize(source, target, box, True, False, False)


@needs_resize
def test_a_pillow_that_resizes_differently_is_used_itself(monkeypatch):
    with_pillow = resizing._with_pillow
    monkeypatch.setattr(resizing, "_with_pillow", lambda *args: with_pillow(*args) ^ 1)
    resizing._extension.cache_clear()
    try:
        assert resizing._extension() is None
    finally:
        resizing._extension.cache_clear()


# --- JPEG


def files():
    """Sizes, chroma, grey, progressive files, restart markers, several qualities."""
    rng = np.random.default_rng(1)
    for number in range(240):
        height, width = rng.integers(8, 150), rng.integers(1, 150)  # lower ones are decoded whole
        image = photo(height, width) if number % 2 else rng.integers(0, 256, (height, width, 3))
        image = Image.fromarray(image.astype(np.uint8)).convert("L" if number % 7 == 0 else "RGB")
        options = {"restart_marker_blocks": int(rng.integers(1, 9))} if number % 5 == 0 else {}
        file = io.BytesIO()
        image.save(
            file,
            "JPEG",
            quality=int(rng.integers(20, 100)),
            subsampling=number % 3,
            progressive=number % 4 == 0,
            **options,
        )
        yield file.getvalue(), (int(height), int(width)), rng


def parts(height, width, rng, count=5):
    """The whole, and random parts of at least one pixel."""
    yield Part(0, 0, height, width)
    for _ in range(count):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        rows, columns = rng.integers(1, height - top + 1), rng.integers(1, width - left + 1)
        yield Part(top, left, int(rows), int(columns))


@needs_jpeg
def test_a_part_is_that_of_the_whole_image(monkeypatch):
    for data, size, rng in files():
        for eighths in (8, 4, 2, 1):
            for channels in (1, 3):
                whole = decode_jpeg(data, channels, size, eighths, None)
                for part in parts(*whole.shape[:2], rng):
                    with monkeypatch.context() as context:
                        context.setattr(simplejpeg, "decode_jpeg", None)  # not needed
                        found = decode_jpeg(data, channels, size, eighths, part)
                    np.testing.assert_array_equal(found, part.of(whole))


def outcome(data, part, without_extension, channels=3):
    """The pixels of a part, or the error."""
    kept = jpeg._compiled
    jpeg._compiled = None if without_extension else kept
    try:
        image = EncodedImage(data)
        return image.pixels(channels, part=part)
    except BrokenImage as error:
        return str(error)
    finally:
        jpeg._compiled = kept


@needs_jpeg
def test_damage_has_the_same_outcome():
    """Also below the part: a run sees the same images on a machine without the extension."""
    data = encode(photo(64, 96), "JPEG", quality=90, restart_marker_blocks=6)
    rng, part, refused = np.random.default_rng(2), Part(3, 5, 20, 30), 0
    for number in range(600):
        damaged = bytearray(data)
        if number % 3 == 0:
            del damaged[int(rng.integers(20, len(data))) :]
        else:
            for place in rng.integers(0 if number % 3 == 1 else 600, len(data), 1 + number % 4):
                damaged[place] = int(rng.integers(256))
        found, expected = (outcome(bytes(damaged), part, pure) for pure in (False, True))
        if isinstance(expected, str):
            refused += 1
            assert found == expected
        else:
            np.testing.assert_array_equal(found, expected)
    assert 200 < refused < 590, "there are both"


@needs_jpeg
@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_files_that_pillow_decodes_are_cut(mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    data = encode(photo(40, 30), "JPEG", mode, quality=90, exif=exif)
    part = Part(2, 3, 20, 30)
    np.testing.assert_array_equal(
        EncodedImage(data).pixels(3, part=part), part.of(EncodedImage(data).pixels(3))
    )


@needs_jpeg
def test_the_extension_declines_what_does_not_fit():
    data, extension = encode(photo(40, 60), "JPEG", quality=90), jpeg._compiled
    target = np.zeros((10, 10, 3), np.uint8)
    assert extension.decode(data, target, 40, 60, 30, 50, 8)
    for height, width, top, left, eighths in (
        (41, 60, 0, 0, 8),  # another size than the header's
        (40, 60, 31, 0, 8),
        (40, 60, 0, 51, 8),
        (40, 60, 2**32 - 1, 2**32 - 1, 8),
        (40, 60, 11, 0, 4),
    ):
        assert not extension.decode(data, target, height, width, top, left, eighths)
    for wrong in (np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), b"read only"):
        with pytest.raises((ValueError, BufferError)):
            extension.decode(data, wrong, 40, 60, 0, 0, 8)


# --- both


@needs_resize
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_crops_are_the_same_without_the_extensions(without, channels, interpolation):
    data = config_of(
        channels=channels, image_size=(32, 48), interpolation=interpolation, crop_scale=(0.1, 1.0)
    ).data
    view, exif = train_view(data), Image.Exif()
    exif[0x0112] = 6
    images = [
        encode(photo(90, 120), "JPEG", quality=95),
        encode(photo(90, 121), "JPEG", quality=80, subsampling=2, progressive=True),
        encode(photo(700, 900), "JPEG", quality=90),  # decoded at a fraction of its size
        encode(photo(90, 120)[..., 0], "JPEG"),
        encode(photo(90, 120), "JPEG", exif=exif),
        encode(photo(90, 120), "JPEG", "CMYK"),
        encode(photo(90, 120)),
        photo(90, 120),
    ]

    def crops():
        rng = np.random.default_rng(3)
        return np.stack([view({"image": x}, rng)["image"] for x in images for _ in range(6)])

    found = crops()
    without()
    np.testing.assert_array_equal(found, crops())


def test_a_machine_without_a_compiler_has_no_extension():
    assert compiled("hpm_jax.data._never_compiled") is None
