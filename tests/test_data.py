"""The input pipeline: what a batch depends on, and where images come from."""

import dataclasses
import io
import json
import os

import numpy as np
import pytest
from small_images import WHOLE, config_of, encode, photo

from hpm_jax.data.fingerprint import check_data
from hpm_jax.data.lists import read_image_list
from hpm_jax.data.pipeline import BrokenImages, LoadForTraining, train_batches
from hpm_jax.data.pipeline import test_images as load_test_images
from hpm_jax.data.scored import read_class_names
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.data.video_sources import read_list
from hpm_jax.evaluation.accuracy import evaluate_split
from hpm_jax.run.console import Console
from hpm_jax.run.devices import all_devices
from hpm_jax.storage import write


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


def take(config, start, count, rows=None):
    splits = SOURCES[config.data.source](config.data)
    batches = train_batches(splits.train, config, start, rows)
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
    for rows in (np.arange(16), np.arange(16, 48), np.array([40, 3, 7])):
        np.testing.assert_array_equal(take(config, 2, 1, rows)[0], whole[rows])
    workers = dataclasses.replace(config, run=dataclasses.replace(config.run, workers=2))
    np.testing.assert_array_equal(take(workers, 2, 1, np.arange(16))[0], whole[:16])


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


# --- folders


def test_folder(folder):
    config = config_of(source="folder", path=str(folder), channels=3)
    splits = SOURCES["folder"](config.data)
    assert (len(splits.train), len(splits.test), splits.classes) == (24, 6, ("cat", "dog"))
    assert splits.train[0]["label"] == 0 and splits.train[23]["label"] == 1
    assert splits.train.name(0).endswith("train/cat/0.jpg")
    images, labels, names = load_test_images(splits.test, np.arange(6), config)
    assert images.shape == (6, 16, 16, 3) and list(labels) == [0, 0, 0, 1, 1, 1] and not names


def test_images_without_folders_have_no_labels(folder):
    data = config_of(source="folder", path=str(folder / "train" / "cat"), channels=3).data
    splits = SOURCES["folder"](data)
    assert splits.classes == () and splits.train[0]["label"] == -1
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


def test_what_is_too_large_is_named_with_the_reason(folder):
    wide, sparse = folder / "test" / "cat" / "0.jpg", folder / "test" / "dog" / "0.jpg"
    wide.write_bytes(encode(photo(100, 300), "JPEG"))
    with sparse.open("r+b") as file:
        file.truncate(50 * 2**30)  # takes no space on the disk, and would take it in memory
    config = config_of(
        source="folder", path=str(folder), channels=3, max_pixels=20000, max_broken=0.5
    )
    splits = SOURCES["folder"](config.data)
    _, labels, names = load_test_images(splits.test, np.arange(6), config)
    assert len(labels) == 4 and sorted(names) == [
        f"{wide} (300 x 100 pixels, more than config.data.max_pixels = 20000)",
        f"{sparse} has 53,687,091,200 bytes, expected at most 1,073,741,824: is it the right file?",
    ]


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
@pytest.mark.parametrize("allowed", [0.1, 1.0])
def test_a_test_split_that_cannot_be_read_stops_with_one_sentence(folder, gone, allowed):
    config = config_of(source="folder", path=str(folder), channels=3, max_broken=allowed)
    splits = SOURCES["folder"](config.data)
    for path in (folder / "test").glob("*/*"):
        path.unlink() if gone else path.write_bytes(b"")
    message = rf"images cannot be read, .*{folder}/test/cat/0.jpg.*; repair or remove them"
    with pytest.raises(DataError, match=message) as refusal:
        load_test_images(splits.test, np.arange(6), config)
    assert "\n" not in str(refusal.value)
    devices = all_devices()
    sums = evaluate_split(lambda *_: 0, splits.test, config, devices.round_up(2), devices)
    with pytest.raises(DataError, match=message):
        list(sums)


def test_broken_test_images_are_counted(folder):
    for name in ("cat", "dog"):
        (folder / "test" / name / "0.jpg").write_bytes(WHOLE[:300])
    splits = SOURCES["folder"](config_of(source="folder", path=str(folder), channels=3).data)
    for allowed, fits in ((0.3, False), (0.4, True)):
        config = config_of(source="folder", path=str(folder), channels=3, max_broken=allowed)
        if fits:
            assert len(load_test_images(splits.test, np.arange(6), config)[1]) == 4
            continue
        with pytest.raises(DataError, match="2 of 6 images cannot be read, more than config"):
            load_test_images(splits.test, np.arange(6), config)


def test_no_images_to_measure():
    config = config_of()
    with pytest.raises(DataError, match="holds no images to measure"):
        load_test_images(SOURCES["digits"](config.data).test, np.arange(0), config)


# --- names that are no text


ODD = os.fsdecode(b"caf\xe9")  # Latin-1


@pytest.fixture
def odd_folder(folder):
    (folder / "train" / "cat").rename(folder / "train" / ODD)
    (folder / "test" / "cat").rename(folder / "test" / ODD)
    (folder / "test" / ODD / "1.jpg").rename(folder / "test" / ODD / f"{ODD}.jpg")
    return folder


def test_names_that_are_no_text(odd_folder, capsys):
    config = config_of(source="folder", path=str(odd_folder), channels=3)
    splits = SOURCES["folder"](config.data)
    assert splits.classes == (r"caf\xe9", "dog"), "and test classes are the same"
    (odd_folder / "test" / ODD / f"{ODD}.jpg").write_bytes(b"")
    _, labels, names = load_test_images(splits.test, np.arange(6), config)
    assert len(labels) == 5 and names == [str(odd_folder / "test" / r"caf\xe9" / r"caf\xe9.jpg")]
    check_data(odd_folder, splits, accept=False)
    check_data(odd_folder, splits, accept=False)
    assert json.loads((odd_folder / "data.json").read_text())["classes"][0] == r"caf\xe9"
    assert read_class_names(odd_folder / "train") == splits.classes
    Console().say(f"cannot read {ODD}")
    assert r"cannot read caf\udce9" in capsys.readouterr().out
    write(odd_folder / "report.md", ODD)
    assert (odd_folder / "report.md").read_text() == r"caf\udce9"


def test_lists_of_names_that_are_no_text(odd_folder):
    lines = b"".join(b"train/caf\xe9/%d.jpg %d\n" % (index, index % 2) for index in range(12))
    (odd_folder / "train.txt").write_bytes(lines)
    (odd_folder / "train").rename(odd_folder / "images")
    (odd_folder / "train.txt").write_bytes(lines.replace(b"train/", b"images/"))
    splits = SOURCES["list"](config_of(source="list", path=str(odd_folder)).data)
    assert splits.train[0]["image"] and r"caf\xe9" in splits.train.name(0)
    (odd_folder / "train.txt").write_bytes(b"caf\xe9.jpg 0\n")
    with pytest.raises(DataError, match=r"line 1: there is no .*caf\\xe9\.jpg"):
        SOURCES["list"](config_of(source="list", path=str(odd_folder)).data)


@pytest.mark.parametrize("read", [read_image_list, read_list, read_class_names])
def test_a_list_of_fifty_gigabytes(tmp_path, read):
    path = tmp_path / "train.txt"
    with path.open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(DataError, match=r"train.txt has 53,687,091,200 bytes, expected at most"):
        read(path)


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
    assert splits.train[3]["label"] == 1
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
    assert splits.train[0]["image"].shape == (16, 16, 3)
