"""Stores: written, stopped and gone on with, read by any process, and refused with a reason."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image
from small_images import WHOLE, config_of, encode, photo

from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.data.store import write
from hpm_jax.data.store.__main__ import main
from hpm_jax.data.store.write import shrink, write_store


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of six photographs to train on, the fourth broken, and two each to test."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                data = encode(photo(90, 120, seed=index), "JPEG", quality=95)
                (root / split / name / f"{index}.jpg").write_bytes(data)
    (root / "train" / "cat" / "3.jpg").write_bytes(WHOLE[:300])
    return root


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    """All of them in a store, four images a file, by two processes."""
    out = tmp_path_factory.mktemp("store") / "small"
    write_store(splits_of(images), out, short_side=32, workers=2, shard_images=4)
    return out


def splits_of(path, source="folder"):
    return SOURCES[source](config_of(source=source, path=str(path), channels=3).data)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


# --- one image


def test_large_images_are_made_small():
    photograph = photo(180, 240)
    jpeg = shrink(encode(photograph), 64, 95)
    expected = Image.fromarray(photograph).resize((85, 64), Image.Resampling.BICUBIC)
    assert np.abs(pixels(jpeg).astype(int) - np.asarray(expected)).mean() < 2
    assert Image.open(io.BytesIO(jpeg)).format == "JPEG"
    assert len(shrink(encode(photograph), 64, 30)) < len(jpeg), "quality"


def test_small_images_stay_as_they_are():
    assert shrink(WHOLE, 60, 30) == WHOLE != shrink(WHOLE, 59, 30)
    assert shrink(encode(photo(20, 30)), 20, 30) == encode(photo(20, 30))


def test_grey_images_stay_grey_and_photographs_are_turned_upright():
    grey = shrink(encode(photo(90, 120), "JPEG", "L"), 32, 95)
    assert pixels(grey).shape == (32, 43)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = shrink(encode(photo(90, 120), "JPEG", exif=exif), 32, 95)
    assert pixels(turned).shape == (43, 32, 3)


# --- a store


def test_a_store_holds_what_the_folder_holds(images, store):
    original, stored = splits_of(images), splits_of(store, "store")
    assert sorted(path.name for path in store.iterdir()) == [
        "store.json",
        "test-00000-of-00001.array_record",
        *(f"train-0000{number}-of-00003.array_record" for number in range(3)),
    ]
    assert stored.classes == original.classes
    assert (len(stored.train), len(stored.test)) == (11, 4)
    assert list(stored.train.labels) == [0] * 5 + [1] * 6, "one cat could not be read"
    for index in range(11):
        record, source = stored.train[index], original.train[index + (index >= 3)]
        assert record["label"] == source["label"]
        assert record["image"] == shrink(source["image"], 32, 95)


def test_broken_images_are_named(images, store):
    index = json.loads((store / "store.json").read_text())
    (line,) = index["splits"]["train"]["broken"] + index["splits"]["test"]["broken"]
    assert line.startswith(str(images / "train" / "cat" / "3.jpg") + ": ")


def test_any_process_reads_a_store(store):
    config = config_of(source="store", path=str(store), channels=3)
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, batch_size=8)
    )
    train = splits_of(store, "store").train
    assert train[7] == pickle.loads(pickle.dumps(train))[7]
    workers = dataclasses.replace(config, run=dataclasses.replace(config.run, workers=2))
    for own in (config, workers):
        batches = train_batches(train, own)
        taken = [next(batches) for _ in range(3)]
        batches.close()
        assert all((batch["broken"] < 0).all() for batch in taken)
        if own is config:
            expected = taken
    for batch, same in zip(taken, expected, strict=True):
        np.testing.assert_array_equal(batch["image"], same["image"])
        np.testing.assert_array_equal(batch["label"], same["label"])


def test_an_interrupted_store_is_gone_on_with(images, store, tmp_path, monkeypatch):
    """Stopped in the second shard: only what is missing is made again."""
    monkeypatch.setattr(write, "ProcessPoolExecutor", InThisProcess)
    made = []

    def stop_at_the_sixth(image, *options):
        made.append(image)
        if len(made) == 6:
            raise KeyboardInterrupt
        return shrink(image, *options)

    monkeypatch.setattr(write, "shrink", stop_at_the_sixth)
    splits, out = splits_of(images), tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        write_store(splits, out, short_side=32, shard_images=4)
    with pytest.raises(DataError, match="is not finished: run the command"):
        splits_of(out, "store")
    with pytest.raises(DataError, match="begun with quality = 95, now it is 90"):
        write_store(splits, out, short_side=32, quality=90, shard_images=4)
    write_store(splits, out, short_side=32, shard_images=4)
    assert len(made) == 6 + (4 + 4) + 4, "two shards of the training images, one of the test images"
    assert write_store(splits, out, short_side=32, shard_images=4)["splits"]
    assert len(made) == 18, "a finished store is left alone"
    for file in store.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert len(list(out.iterdir())) == len(list(store.iterdir()))


class InThisProcess:
    """The executor that the writer uses, without processes."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def shutdown(self, **_):
        pass

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*arguments))
        return future


def test_the_command(images, tmp_path, capsys):
    out = tmp_path / "store"
    main(f"--path {images} --out {out} --short_side 32 --workers 1".split())
    printed = capsys.readouterr().out
    assert "train 11 images, files: 1" in printed and f"{out} is ready" in printed
    assert f"{images}/train/cat/3.jpg: " in printed
    with pytest.raises(SystemExit, match="is not a folder: give the folder"):
        main(f"--path {tmp_path}/nowhere --out {tmp_path}/other".split())
    with pytest.raises(SystemExit, match="holds other files: give an empty"):
        main(f"--path {images} --out {images}".split())


# --- what is refused


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_no_store(path):
    with pytest.raises(DataError, match=r"is no store, .* python -m hpm_jax.data.store"):
        splits_of(path, "store")


def test_images_that_are_too_small_for_the_run(store):
    data = config_of(source="store", path=str(store), channels=3, image_size=(64, 64)).data
    with pytest.raises(DataError, match=r"short sides of 32 or less.*--short_side=64"):
        SOURCES["store"](data)


def test_a_shard_that_is_missing_or_cut_short(store, tmp_path):
    for file in store.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "train-00001-of-00003.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=rf"00001-of-00003.* 1000 bytes, expected {len(whole)}"):
        splits_of(tmp_path, "store")
    shard.unlink()
    with pytest.raises(DataError, match="has no bytes, expected"):
        splits_of(tmp_path, "store")


def test_damage_in_a_shard_is_a_broken_image(store, tmp_path):
    for file in store.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "train-00000-of-00003.array_record"
    train = splits_of(tmp_path, "store").train
    damaged = shard.read_bytes().replace(train[1]["image"][-200:], bytes(200))
    shard.write_bytes(damaged)
    train = splits_of(tmp_path, "store").train
    with pytest.raises(OSError, match="train, image 1: "):
        train[1]
    assert train[2]["image"].startswith(b"\xff\xd8"), "its neighbour is whole"


def test_too_many_broken_images(tmp_path):
    for name in ("train", "test"):
        for index in range(4):
            data = WHOLE[: 300 if index < 2 else None]
            path = tmp_path / "images" / name / "cat" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    splits = splits_of(tmp_path / "images")
    with pytest.raises(DataError, match=r"2 of 4 images of the train split .* = 0.25 allows:\n"):
        write_store(splits, tmp_path / "store", max_broken=0.25)
    assert write_store(splits, tmp_path / "store", max_broken=0.5)["splits"]
