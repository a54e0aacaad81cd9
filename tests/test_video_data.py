"""Videos through the pipeline: where they come from, and what a batch of clips depends on."""

import dataclasses

import numpy as np
import pytest
from small_images import config_of
from small_videos import numbers_in, video_data, write_video

from hpm_jax.data import video
from hpm_jax.data.pipeline import BrokenImages, evaluation_batches, train_batches
from hpm_jax.data.pipeline import test_images as load_test_images
from hpm_jax.data.sources import SOURCES, DataError

# the whole of a frame of the files below, so that its number can be read
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.5, 1.5), "flip": 0.0, "image_size": (32, 48)}


def config_for(batch_size=4, workers=0, **data):
    """The options of a run on videos; a model that could take them is not needed."""
    config = config_of()
    return dataclasses.replace(
        config,
        data=video_data(**data),
        optimizer=dataclasses.replace(config.optimizer, batch_size=batch_size),
        run=dataclasses.replace(config.run, workers=workers),
        evaluation=dataclasses.replace(config.evaluation, batch_size=4),
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of four videos to train on and one to test, each of a length of its own."""
    root = tmp_path_factory.mktemp("videos")
    count = 20
    for split, each in (("train", 4), ("val", 1)):
        for name in ("jump", "run"):
            (root / split / name).mkdir(parents=True)
            for index in range(each):
                write_video(root / split / name / f"{index}.mp4", count, options={"g": "8"})
                count += 1
    return root


def take(config, start, count, rows=None, repeats=1):
    splits = SOURCES[config.data.source](config.data)
    batches = train_batches(splits.train, config, start, rows, repeats=repeats)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def images(*args, **kwargs):
    return [batch["image"] for batch in take(*args, **kwargs)]


# --- batches


def test_batches_of_clips(videos):
    config = config_for(path=str(videos), **WHOLE)
    (batch,) = take(config, 0, 1)
    assert batch["image"].shape == (4, 4, 32, 48, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4,) and batch["broken"].shape == (4, 8)
    assert (np.diff(numbers_in(batch["image"])) == 2).all()
    several = config_for(path=str(videos), **WHOLE, clips=3)
    (batch,) = take(several, 0, 1)
    assert batch["image"].shape == (4, 3, 4, 32, 48, 3) and batch["label"].shape == (4,)
    assert (np.diff(numbers_in(batch["image"])) == 2).all()


def test_clips_depend_on_seed_and_step_alone(videos):
    config = config_for(path=str(videos), clips=2, crop="multi_scale")
    expected = images(config, 0, 4)
    assert (expected[0] != expected[1]).any()
    np.testing.assert_array_equal(images(config, 2, 2), expected[2:])
    np.testing.assert_array_equal(images(config, 3, 1, np.array([3, 1]))[0], expected[3][[3, 1]])
    workers = config_for(path=str(videos), clips=2, crop="multi_scale", workers=2)
    found = images(workers, 3, 3, repeats=2)
    np.testing.assert_array_equal(found, [expected[1], expected[2], expected[2]])


def test_a_video_is_opened_once_for_all_its_clips(videos, monkeypatch):
    opened = []
    init = video.Video.__init__
    monkeypatch.setattr(
        video.Video,
        "__init__",
        lambda self, data, *rest: opened.append(data) or init(self, data, *rest),
    )
    config = config_for(path=str(videos), test_clips=2, test_crops=3, clips=4)
    splits = SOURCES["video_folder"](config.data)
    list(evaluation_batches(splits.test, config.data, config.run, 2))
    assert len(opened) == 2
    opened.clear()
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, prefetch=1))
    for _ in range(2):
        take(config, 0, 1)
    assert len(opened) < 4 * 2 * 4, "ahead of the first batch, but not a clip at a time"


def test_batches_for_testing(videos):
    config = config_for(path=str(videos), image_size=(32, 32), test_clips=2, test_crops=3)
    splits = SOURCES["video_folder"](config.data)
    (batch,) = evaluation_batches(splits.test, config.data, config.run, 4)
    assert batch["image"].shape == (4, 6, 4, 32, 32, 3)
    np.testing.assert_array_equal(batch["label"], [0, 1, -1, -1])
    np.testing.assert_array_equal(batch["weight"], [1, 1, 0, 0])
    one = dataclasses.replace(config.data, test_clips=1, test_crops=1)
    (batch,) = evaluation_batches(splits.test, one, config.run, 2)
    assert batch["image"].shape == (2, 4, 32, 32, 3)
    middle, labels, names = load_test_images(splits.test, np.arange(2), config)
    np.testing.assert_array_equal(middle, batch["image"])
    assert list(labels) == [0, 1] and not names


def test_a_broken_video_gives_way_and_is_named(tmp_path):
    for index in range(4):
        write_video(
            tmp_path / f"{index}.webm", 12, codec="libvpx", options={"deadline": "realtime"}
        )
    broken = tmp_path / "1.webm"
    broken.write_bytes(broken.read_bytes()[:700])
    config = config_for(path=str(tmp_path), holdout=0.25, max_broken=0.5, batch_size=3)
    splits = SOURCES["video_folder"](config.data)
    assert 1 in splits.train.indices, "the share that is held out is fixed"
    tracker = BrokenImages(splits.train, config.data.max_broken)
    batches = train_batches(splits.train, config)
    taken = [next(batches) for _ in range(3)]
    assert [name for batch in taken for name in tracker.add(batch["broken"])] == [str(broken)]
    assert all(batch["image"].std((1, 2, 3, 4)).min() > 0 for batch in taken)


# --- batches that come again


def test_repeated_batches(videos):
    """The batch of step s is number s // repeats, wherever a run goes on."""
    config = config_for(path=str(videos))
    once = images(config, 0, 3)
    for repeats in (2, 3):
        expected = [once[step // repeats] for step in range(6)]
        np.testing.assert_array_equal(images(config, 0, 6, repeats=repeats), expected)
        for start in (1, 2, 3, 5):
            found = images(config, start, 6 - start, repeats=repeats)
            np.testing.assert_array_equal(found, expected[start:])


def test_repeated_batches_are_loaded_once():
    """Twelve steps of three each take no more records than four batches and what is prefetched."""
    config = config_for(source="synthetic", batch_size=2, synthetic_images=400)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, threads=1, prefetch=1))
    splits = SOURCES["synthetic"](config.data)
    taken = []

    class Watched:
        __len__ = splits.train.__len__

        def __getitem__(self, index):
            taken.append(index)
            return splits.train[index]

    batches = train_batches(Watched(), config, repeats=3)
    for _ in range(12):
        next(batches)
    batches.close()
    assert 8 <= len(taken) <= 2 * (4 + 3)


# --- sources


def test_class_folders_of_videos(videos):
    splits = SOURCES["video_folder"](video_data(path=str(videos)))
    assert (len(splits.train), len(splits.test), splits.classes) == (8, 2, ("jump", "run"))
    assert splits.train.name(5).endswith("train/run/1.mp4") and splits.train[5]["label"] == 1


@pytest.mark.parametrize("source", ["video_folder", "video_csv", "moving_digits"])
def test_videos_need_frames(videos, source):
    with pytest.raises(DataError, match=r"data\.frames = 1, and config\.data\.source"):
        SOURCES[source](video_data(source=source, path=str(videos), frames=1))


def test_a_list_is_trained_on(videos):
    paths = sorted(str(path.relative_to(videos)) for path in (videos / "train").rglob("*.mp4"))
    lines = "\n".join(f"{path} {index % 3}" for index, path in enumerate(paths))
    (videos / "train.csv").write_text(lines)
    config = config_for(source="video_csv", path=str(videos), holdout=0.25)
    (batch,) = take(config, 0, 1)
    assert batch["image"].shape == (4, 4, 16, 16, 3) and set(batch["label"]) <= {0, 1, 2}


@pytest.mark.parametrize("sampling", ["dense", "segments"])
def test_moving_digits_make_clips_without_still_ends(sampling):
    config = config_for(
        source="moving_digits",
        sampling=sampling,
        frames=6,
        frame_stride=3,
        **WHOLE,
    )
    clips = take(config, 0, 1)[0]["image"].astype(int)
    assert clips.shape == (4, 6, 32, 48, 3)
    assert (np.abs(np.diff(clips, axis=1)).sum((2, 3, 4)) > 0).all()
