"""Crops, and every kind of image that a folder may hold."""

import io

import numpy as np
import pytest
from PIL import Image
from small_images import WHOLE, config_of, encode, photo

from hpm_jax.config import defaults, freeze
from hpm_jax.data import geometry
from hpm_jax.data.decoding import BrokenImage, EncodedImage
from hpm_jax.data.transforms import byol_box, random_box
from hpm_jax.data.views import center_crop as center_view
from hpm_jax.data.views import several_crops, train_view

# --- crops


def train_crop(stored, rng, data):
    return train_view(data)({"image": stored}, rng)["image"]


def center_crop(stored, data):
    return center_view({"image": stored}, data)["image"]


def test_random_boxes_are_those_of_torchvision():
    rng = np.random.default_rng(0)
    boxes = [random_box(rng, 400, 400, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    areas = np.array([box.height * box.width / 160000 for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert areas.min() > 0.19 and areas.max() <= 1
    assert ratios.min() > 0.74 and ratios.max() < 1.35
    assert abs(np.log(ratios).mean()) < 0.03, "log-uniform: as often wide as tall"
    for box in boxes:
        assert 0 <= box.top <= 400 - box.height and 0 <= box.left <= 400 - box.width


def test_a_box_that_never_fits_is_the_largest_centred_one():
    box = random_box(np.random.default_rng(0), 10, 100, (0.9, 1.0), (3 / 4, 4 / 3))
    assert (box.top, box.height, box.width) == (0, 10, 13)
    assert box.left == (100 - 13) // 2


def simulated_areas(height, width, retries, count=20000):
    """Shares of an image's area that a crop takes, by the two definitions, without rounding."""
    rng = np.random.default_rng(1)
    area = rng.uniform(0.08, 1.0, (retries, count))
    aspect = (3 / 4) ** rng.uniform(-1, 1, (retries, count))
    w, h = np.sqrt(area * aspect * height / width), np.sqrt(area / aspect * width / height)
    if retries == 1:
        return np.minimum(w, 1) * np.minimum(h, 1)
    fits = (w <= 1) & (h <= 1)
    first = fits.argmax(axis=0), np.arange(count)
    return (w * h)[first][fits.any(axis=0)]


def test_crops_of_linear_probes_are_larger_than_torchvision_s():
    """On photographs of 500 x 375, ImageNet's usual size: .518 of the image against .433."""
    for crop, retries, mean in ((byol_box, 1, 0.518), (random_box, 10, 0.433)):
        rng = np.random.default_rng(0)
        boxes = [crop(rng, 375, 500, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(20000)]
        areas = [box.height * box.width / (375 * 500) for box in boxes]
        assert abs(np.mean(areas) - mean) < 0.006
        assert abs(simulated_areas(375, 500, retries).mean() - mean) < 0.006
        for box in boxes:
            assert 0 <= box.top <= 375 - box.height and 0 <= box.left <= 500 - box.width


def test_a_crop_is_what_pillow_makes_of_it():
    """Decode, crop, resize bicubic with antialiasing: bit for bit where nothing is scaled."""
    array, data = photo(90, 120), encode(photo(90, 120), "JPEG", quality=95)
    options = config_of(channels=3, image_size=(48, 64), flip=0.0).data
    crop = train_crop(data, np.random.default_rng(3), options)
    rng = np.random.default_rng(3)
    box = random_box(rng, 90, 120, options.crop_scale, options.crop_ratio)
    image = Image.open(io.BytesIO(data)).crop(
        (box.left, box.top, box.left + box.width, box.top + box.height)
    )
    np.testing.assert_array_equal(crop, image.resize((64, 48), Image.Resampling.BICUBIC))
    assert array.shape == (90, 120, 3)


def test_large_files_are_decoded_small_and_look_the_same():
    data = encode(photo(1200, 1600), "JPEG", quality=95)
    options = config_of(channels=3, image_size=(32, 32)).data
    image = EncodedImage(data)
    assert image.smallest_scale(1200, 1600, (64, 64)) == 1
    assert image.pixels(3, eighths=1).shape == (150, 200, 3)
    scaled = train_crop(data, np.random.default_rng(0), options)
    whole = train_crop(np.asarray(Image.open(io.BytesIO(data))), np.random.default_rng(0), options)
    assert np.abs(scaled.astype(int) - whole).max() <= 4


def test_flips_happen_as_often_as_asked():
    options = config_of(channels=3, flip=0.25, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)).data
    image = photo(16, 16)
    rng = np.random.default_rng(0)
    flipped = [(train_crop(image, rng, options) != image).any() for _ in range(2000)]
    assert abs(np.mean(flipped) - 0.25) < 0.05


def test_center_crop():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    crop = center_crop(image, config_of(channels=3, image_size=(16, 16), test_crop=0.5).data)
    assert crop.shape == (16, 16, 3)
    assert (crop[:, :7] == 0).all() and (crop[:, 9:] == 255).all()


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (3, 2000)])
def test_thin_images_are_cropped_before_they_are_resized(size, monkeypatch):
    """Resized whole, the first would have 12 GB."""
    image = np.zeros((*size, 3), np.uint8)
    image[-(size[0] // 2) :, -(size[1] // 2) :] = 255
    options = config_of(channels=3, image_size=(224, 224)).data
    made = []
    resize = geometry.resize
    monkeypatch.setattr(
        geometry, "resize", lambda array, to, *rest: made.append(to) or resize(array, to, *rest)
    )
    crop = center_crop(encode(image), options)
    assert crop.shape == (224, 224, 3) and made == [(224, 224)]
    assert crop.min() < 64 and crop.max() > 191, (
        "both halves are seen, as the crop is in the centre"
    )
    labels = {"image": image, "label_map": (image[..., 0] > 0).astype(np.int32)}
    seen = center_view(labels, options)
    assert ((seen["image"][..., 0] > 127) == seen["label_map"]).mean() > 0.98
    assert several_crops(labels, options, 3)["image"].shape == (3, 1, 224, 224, 3)


def test_crops_of_ordinary_images_are_resized_whole():
    """Up to 32 times longer than wide: to the pixel what Pillow's resize and crop make."""
    image = photo(20, 300)
    options = config_of(channels=3, image_size=(28, 28), test_crop=0.875).data
    whole = np.asarray(Image.fromarray(image).resize((480, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(center_crop(image, options), whole[2:30, 226:254])


# --- images that are too large


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_of_too_many_pixels_is_not_decoded(format, monkeypatch):
    data = encode(photo(60, 80), format)
    options = config_of(channels=3, max_pixels=4799).data
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    message = "80 x 60 pixels, more than config.data.max_pixels = 4799"
    for view in (center_crop, lambda x, o: train_crop(x, np.random.default_rng(0), o)):
        with pytest.raises(BrokenImage, match=message):
            view(data, options)
    monkeypatch.undo()
    at_the_limit = config_of(channels=3, max_pixels=4800).data
    usual = config_of(channels=3).data
    np.testing.assert_array_equal(center_crop(data, at_the_limit), center_crop(data, usual))


def test_channels_beyond_colour():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 5), dtype=np.uint8)
    config = defaults()
    config.data.update(channels=5, mean=(0.5,) * 5, std=(0.5,) * 5, image_size=(8, 12))
    config.model.patch_size = 4
    crop = train_crop(image, np.random.default_rng(0), freeze(config).data)
    assert crop.shape == (8, 12, 5) and crop.std() > 0


# --- formats


RED = np.zeros((20, 30, 3), np.uint8)
RED[..., 0] = 204  # a colour of the palette that Pillow uses


def decoded(data, channels=3):
    return EncodedImage(data).pixels(channels)


def test_colour_grey_and_palette():
    np.testing.assert_allclose(decoded(encode(RED, "JPEG", quality=98)), RED, atol=6)
    np.testing.assert_array_equal(decoded(encode(RED)), RED)
    np.testing.assert_array_equal(decoded(encode(RED, mode="P")), RED)
    np.testing.assert_array_equal(decoded(encode(RED, mode="RGBA")), RED)
    grey = np.full((20, 30), 77, np.uint8)
    for format in ("JPEG", "PNG"):
        np.testing.assert_array_equal(decoded(encode(grey, format)), np.full((20, 30, 3), 77))
        np.testing.assert_array_equal(decoded(encode(grey, format), 1), np.full((20, 30, 1), 77))
    assert abs(int(decoded(encode(RED), 1)[0, 0, 0]) - round(0.299 * 204)) <= 1


def test_cmyk():
    np.testing.assert_allclose(decoded(encode(RED, "JPEG", "CMYK", quality=98)), RED, atol=8)


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.full((20, 30), 83 * 257, np.uint16)
    np.testing.assert_array_equal(decoded(encode(deep)), np.full((20, 30, 3), 83))


def test_a_photograph_held_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    array = photo(20, 30)
    image = EncodedImage(encode(array, "JPEG", quality=98, exif=exif))
    assert (image.height, image.width) == (30, 20)
    plain = decoded(encode(array, "JPEG", quality=98))
    np.testing.assert_array_equal(image.pixels(3), np.rot90(plain, -1))


def test_an_image_smaller_than_the_crop():
    data = encode(photo(5, 3))
    options = config_of(channels=3, image_size=(32, 32)).data
    assert train_crop(data, np.random.default_rng(0), options).shape == (32, 32, 3)
    assert center_crop(data, options).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-2],
        WHOLE[:200] + b"\xff\xd9",
        encode(photo())[:100],
    ],
    ids=["empty", "text", "half", "without its end", "cut and closed", "half a PNG"],
)
def test_broken_bytes(data):
    with pytest.raises(BrokenImage):
        decoded(data)
