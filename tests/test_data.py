"""The input pipeline: what a batch depends on, and every kind of image a folder may hold."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from hpm_jax.config import defaults, freeze
from hpm_jax.data.decoding import BrokenImage, EncodedImage
from hpm_jax.data.pipeline import ALONE, BrokenImages, LoadForTraining, Shard, train_batches
from hpm_jax.data.pipeline import test_images as load_test_images
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.data.transforms import random_box, train_crop
from hpm_jax.data.transforms import test_crop as center_crop


def config_of(**data):
    config = defaults()
    config.data.update(source="digits", image_size=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
    config.model.patch_size = 4
    config.optimizer.update(batch_size=48, warmup_epochs=0.0)
    config.data.update(data)
    if config.data.channels == 3:
        config.data.update(mean=(0.5,) * 3, std=(0.5,) * 3)
    return freeze(config)


def encode(array, format="PNG", mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


def photo(height=60, width=80, seed=0):
    """Smooth colours, so that JPEG keeps them."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path):
    """Two classes of twelve photographs to train on, and three each to test."""
    for split, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                data = encode(photo(seed=index), "JPEG", quality=95)
                (tmp_path / split / name / f"{index}.jpg").write_bytes(data)
    return tmp_path


# --- batches


def take(config, start, count, shard=ALONE):
    splits = SOURCES[config.data.source](config.data)
    batches = train_batches(splits.train, config, start, shard)
    taken = [next(batches)["image"] for _ in range(count)]
    batches.close()
    return taken


def test_a_batch_depends_on_seed_and_step_alone():
    config = config_of()
    expected = take(config, 0, 6)
    assert (expected[0] != expected[1]).any()
    np.testing.assert_array_equal(take(config, 4, 2), expected[4:])
    threads = dataclasses.replace(
        config, run=dataclasses.replace(config.run, threads=1, prefetch=1)
    )
    np.testing.assert_array_equal(take(threads, 4, 2), expected[4:])
    assert (take(dataclasses.replace(config, seed=1), 0, 1)[0] != expected[0]).any()


def test_workers_change_nothing():
    config = config_of()
    workers = dataclasses.replace(config, run=dataclasses.replace(config.run, workers=2))
    np.testing.assert_array_equal(take(workers, 3, 3), take(config, 3, 3))


def test_processes_share_a_batch():
    config = config_of()
    whole = take(config, 2, 1)[0]
    parts = [take(config, 2, 1, Shard(index, 3))[0] for index in range(3)]
    np.testing.assert_array_equal(np.stack(parts, 1).reshape(whole.shape), whole)


def test_every_image_is_seen_once_in_an_epoch(monkeypatch):
    """48 does not divide 1617: batches run on across the end of an epoch."""
    config = config_of()
    splits = SOURCES["digits"](config.data)
    monkeypatch.setattr(
        LoadForTraining,
        "random_map",
        lambda self, index, rng: {"image": np.int64(index), "draw": rng.random()},
    )
    batches = train_batches(splits.train, config)
    taken = [next(batches) for _ in range(68)]
    order = np.concatenate([batch["image"] for batch in taken])[: 2 * len(splits.train)]
    first, second = np.split(order, 2)
    assert sorted(first) == sorted(second) == list(range(len(splits.train)))
    assert (first != second).any(), "another order in the next epoch"
    draws = np.concatenate([batch["draw"] for batch in taken])
    assert len(np.unique(draws)) == len(draws), "and other crops"


# --- crops


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


WHOLE = encode(photo(), "JPEG")


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


# --- folders


def test_folder(folder):
    config = config_of(source="folder", path=str(folder), channels=3)
    splits = SOURCES["folder"](config.data)
    assert (len(splits.train), len(splits.test), splits.classes) == (24, 6, ("cat", "dog"))
    assert splits.train[0].label == 0 and splits.train[23].label == 1
    assert splits.train.name(0).endswith("train/cat/0.jpg")
    images, labels, names = load_test_images(splits.test, np.arange(6), config)
    assert images.shape == (6, 16, 16, 3) and list(labels) == [0, 0, 0, 1, 1, 1] and not names


def test_images_without_folders_have_no_labels(folder):
    data = config_of(source="folder", path=str(folder / "train" / "cat"), channels=3).data
    splits = SOURCES["folder"](data)
    assert splits.classes == () and splits.train[0].label == -1
    assert (len(splits.train), len(splits.test)) == (11, 1), "a share is held out"


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_no_folder(path):
    with pytest.raises(DataError, match="is not a folder: give the folder"):
        SOURCES["folder"](config_of(source="folder", path=path).data)


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="holds no images: expected files"):
        SOURCES["folder"](config_of(source="folder", path=str(tmp_path)).data)


def test_test_classes_that_training_lacks(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(DataError, match="classes that the training data lacks: wolf"):
        SOURCES["folder"](config_of(source="folder", path=str(folder)).data)


def test_loose_images_among_classes(folder):
    (folder / "train" / "stray.jpg").write_bytes(WHOLE)
    with pytest.raises(DataError, match=r"loose images \(stray.jpg"):
        SOURCES["folder"](config_of(source="folder", path=str(folder)).data)


def test_a_broken_image_gives_way_and_is_named(folder):
    broken = folder / "train" / "cat" / "5.jpg"
    broken.write_bytes(WHOLE[:300])
    config = config_of(source="folder", path=str(folder), channels=3)
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, batch_size=12)
    )
    splits = SOURCES["folder"](config.data)
    tracker = BrokenImages(splits.train, config.data.max_broken)
    batches = train_batches(splits.train, config)
    named = [name for _ in range(6) for name in tracker.add(next(batches)["broken"])]
    assert named == [str(broken)], "once, though three epochs met it"
    np.testing.assert_array_equal(take(config, 1, 1)[0], take(config, 0, 2)[1])
    (folder / "test" / "cat" / "1.jpg").write_bytes(b"")
    _, labels, names = load_test_images(splits.test, np.arange(6), config)
    assert len(labels) == 5 and names == [str(folder / "test" / "cat" / "1.jpg")]


def test_too_many_broken_images_stop_the_run(folder):
    for index in range(4):
        (folder / "train" / "cat" / f"{index}.jpg").write_bytes(WHOLE[:300])
    config = config_of(source="folder", path=str(folder), channels=3, max_broken=0.1)
    splits = SOURCES["folder"](config.data)
    tracker = BrokenImages(splits.train, config.data.max_broken)
    batches = train_batches(splits.train, config)
    with pytest.raises(DataError, match=r"of 24 images cannot be read, more than") as error:
        for _ in range(4):
            tracker.add(next(batches)["broken"])
    assert "train/cat/" in str(error.value)


# --- tensorflow-datasets


def write_tfds(root):
    """A prepared data set, by hand: tfds itself writes images only with TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
    )
    place = root / "tiny" / "1.0.0"
    place.mkdir(parents=True)
    splits = []
    for name, count in (("train", 20), ("test", 6)):
        path = place / f"tiny-{name}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for index in range(count):
            image = io.BytesIO(encode(photo(seed=index), "JPEG"))
            example = features.encode_example({"image": image, "label": index % 2})
            writer.write(features.serialize_example(example))
        writer.close()
        splits.append(
            {"name": name, "numBytes": "1", "shardLengths": [str(count)]}
            | {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
        )
    features.save_config(str(place))
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "moduleName": "tiny"}
    (place / "dataset_info.json").write_text(json.dumps(info | {"splits": splits}))


def test_tensorflow_datasets_without_tensorflow(tmp_path):
    import sys

    write_tfds(tmp_path)
    config = config_of(source="tfds", name="tiny", path=str(tmp_path), channels=3)
    splits = SOURCES["tfds"](config.data)
    assert (len(splits.train), len(splits.test), splits.classes) == (20, 6, ("cat", "dog"))
    assert splits.train[3].label == 1
    images, labels, _ = load_test_images(splits.test, np.arange(6), config)
    assert images.std() > 0 and sorted(labels) == [0, 0, 0, 1, 1, 1]
    assert "tensorflow" not in sys.modules


def test_a_data_set_that_is_not_prepared(tmp_path):
    config = config_of(source="tfds", name="imagenet2012", path=str(tmp_path), channels=3)
    with pytest.raises(DataError, match="tfds build imagenet2012 --file_format=array_record"):
        SOURCES["tfds"](config.data)


def test_synthetic_images_take_no_time_or_memory():
    splits = SOURCES["synthetic"](config_of(source="synthetic", channels=3).data)
    assert len(splits.train) + len(splits.test) == 4096
    assert splits.train[0].image.shape == (16, 16, 3)
