"""Videos through the pipeline: where they come from, and what a batch of clips depends on."""

import dataclasses

import numpy as np
import pytest
from small_images import config_of
from small_videos import numbers_in, video_data, write_video

from hpm_jax.data import video
from hpm_jax.data.pipeline import BrokenImages, evaluation_batches, train_batches
from hpm_jax.data.pipeline import test_images as load_test_images
from hpm_jax.data.sources import SOURCES, DataError, known_labels

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
        video.Video, "__init__", lambda self, data: opened.append(data) or init(self, data)
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


# --- folders and lists


def test_class_folders_of_videos(videos):
    splits = SOURCES["video_folder"](video_data(path=str(videos)))
    assert (len(splits.train), len(splits.test), splits.classes) == (8, 2, ("jump", "run"))
    assert splits.train.name(5).endswith("train/run/1.mp4") and splits.train[5].label == 1


def test_a_folder_without_videos(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no videos: expected files that end in \.mp4"):
        SOURCES["video_folder"](video_data(path=str(tmp_path)))
    with pytest.raises(DataError, match=r"holds the videos, as in --config.data.path=/data/my_vid"):
        SOURCES["video_folder"](video_data(path=""))


@pytest.mark.parametrize("source", ["video_folder", "video_csv", "moving_digits"])
def test_videos_need_frames(videos, source):
    with pytest.raises(DataError, match=r"data\.frames = 1, and config\.data\.source"):
        SOURCES[source](video_data(source=source, path=str(videos), frames=1))


def listed(root, train, val=None, **data):
    """The splits of lists with these lines."""
    (root / "train.csv").write_text(train)
    if val is not None:
        (root / "val.csv").write_text(val)
    return SOURCES["video_csv"](video_data(source="video_csv", path=str(root), **data))


@pytest.fixture
def clips(tmp_path):
    """Files with the names that lists may give, and nothing in them."""
    names = ["1.mp4", "2.webm", "a folder/of things.avi", "with, comma.mp4", "3.mp4 copy.mp4", "4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def contents(records):
    return [(record.image.decode(), record.label) for record in map(records.__getitem__, range(3))]


LAYOUTS = {
    "VideoMAE": "1.mp4 10\n2.webm 9\na folder/of things.avi 10\n",
    "commas": "1.mp4,10\n2.webm,9\na folder/of things.avi,10",
    "commas and spaces": "1.mp4, 10\n2.webm , 9\n\na folder/of things.avi,  10\n\n",
    "tabs": "1.mp4\t10\n2.webm\t9\na folder/of things.avi\t10\n",
    "a header": "path,label\n1.mp4,10\n2.webm,9\na folder/of things.avi,10\n",
    "a header with spaces": "video_path class\r\n1.mp4 10\r\n2.webm 9\r\na folder/of things.avi 10",
    "a byte order mark": "\ufeff1.mp4 10\n2.webm 9\na folder/of things.avi 10\n",
    "quotes": '"1.mp4","10"\n"2.webm","9"\n"a folder/of things.avi","10"\n',
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_lists(clips, name):
    splits = listed(clips, LAYOUTS[name], "1.mp4 9\n1.mp4 9\n2.webm 10\n")
    assert splits.classes == ("9", "10"), "numbers, by their size"
    assert contents(splits.train) == [("1.mp4", 1), ("2.webm", 0), ("a folder/of things.avi", 1)]
    assert contents(splits.test) == [("1.mp4", 0), ("1.mp4", 0), ("2.webm", 1)]
    np.testing.assert_array_equal(known_labels(splits.train), [1, 0, 1])
    assert splits.train.name(0) == str(clips / "1.mp4")


def test_lists_of_odd_paths(clips):
    train = f"with, comma.mp4 walking the dog\n{clips}/3.mp4 copy.mp4,eating\n1.mp4 eating"
    splits = listed(clips, train, "1.mp4 eating")
    assert splits.classes == ("eating", "walking the dog")
    assert contents(splits.train) == [("with, comma.mp4", 1), ("3.mp4 copy.mp4", 0), ("1.mp4", 0)]


def test_lists_of_names_without_endings(clips):
    splits = listed(clips, "4 12\n4 7\n4 12", "4 7\n4 7\n4 7")
    assert splits.classes == ("7", "12") and contents(splits.train) == [
        ("4", 1),
        ("4", 0),
        ("4", 1),
    ]


def test_lists_without_labels_or_tests(clips):
    splits = listed(clips, "1.mp4\n2.webm\n3.mp4 copy.mp4\n1.mp4", holdout=0.25)
    assert splits.classes == () and (len(splits.train), len(splits.test)) == (3, 1)
    assert [label for _, label in contents(splits.train)] == [-1, -1, -1]


def test_the_test_list_that_was_asked_for(clips):
    (clips / "test.csv").write_text("1.mp4 0\n")
    assert len(listed(clips, "1.mp4 0\n2.webm 1", "1.mp4 0\n1.mp4 1").test) == 1
    assert len(listed(clips, "1.mp4 0\n2.webm 1", test_split="val").test) == 2


def test_lists_that_cannot_be_right(clips):
    with pytest.raises(DataError, match=r"holds no train.csv: give the folder of the lists"):
        SOURCES["video_csv"](video_data(source="video_csv", path=str(clips)))
    with pytest.raises(DataError, match=r"names 5.mp4, which is not there: expected paths rel"):
        listed(clips, "5.mp4 0\n")
    with pytest.raises(DataError, match="names no videos"):
        listed(clips, "\n")
    with pytest.raises(DataError, match=r"gives 2.webm no label, but others have one"):
        listed(clips, "1.mp4 0\n2.webm\n")
    with pytest.raises(DataError, match="classes that the training data lacks: 2"):
        listed(clips, "1.mp4 0\n2.webm 1\n", "1.mp4 2\n")


def test_a_list_is_trained_on(videos):
    paths = sorted(str(path.relative_to(videos)) for path in (videos / "train").rglob("*.mp4"))
    lines = "\n".join(f"{path} {index % 3}" for index, path in enumerate(paths))
    (videos / "train.csv").write_text(lines)
    config = config_for(source="video_csv", path=str(videos), holdout=0.25)
    (batch,) = take(config, 0, 1)
    assert batch["image"].shape == (4, 4, 16, 16, 3) and set(batch["label"]) <= {0, 1, 2}


# --- made, not read


def digits(**data):
    small = {"source": "moving_digits", "image_size": (32, 40), "channels": 1, "frame_stride": 1}
    return SOURCES["moving_digits"](video_data(**small | {"frames": 8, "mean": (0.5,)} | data))


def test_digits_move_where_their_label_says():
    """By the centre of their brightness, which the whole digit stays in the frame to have."""
    splits = digits()
    assert (len(splits.train), len(splits.test)) == (1617 * 4, 180 * 4)
    ways = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    for index in np.random.default_rng(0).choice(len(splits.train), 60, replace=False):
        video, label = splits.train[int(index)]
        assert video.shape == (8, 32, 40, 1) and video.dtype == np.uint8
        light = video[..., 0].astype(float)
        total = light.sum((1, 2))
        np.testing.assert_allclose(total, total[0])
        rows = (light.sum(2) * np.arange(32)).sum(1) / total
        columns = (light.sum(1) * np.arange(40)).sum(1) / total
        way = ways[splits.classes[label].split()[1]]
        steps = np.stack([np.diff(rows), np.diff(columns)], -1)
        assert (steps @ way >= 0).all() and (steps @ way).sum() >= 8, "room is 18 or 26"
        np.testing.assert_allclose(steps @ np.abs(way[::-1]), 0, atol=1e-9)


def test_digits_are_as_large_as_they_should_be():
    train = digits().train
    videos = np.stack([train[index].image for index in range(0, 800, 4)])
    lit = videos[..., 0].max((0, 1)) > 0
    assert lit.mean() > 0.9, "somewhere they are everywhere"
    heights = [np.ptp(np.flatnonzero(v[0].any((1, 2)))) + 1 for v in videos]
    assert 10 <= max(heights) <= 0.5 * 32


def test_no_single_frame_tells_the_direction():
    """The digit stands in the same places on its way to the left as on its way to the right."""
    splits = digits(frames=2)
    columns = {}
    for direction in (0, 1):
        videos = [splits.train[4 * index + direction].image for index in range(800)]
        light = np.stack(videos)[..., 0].astype(float).sum((1, 2))
        columns[direction] = (light * np.arange(40)).sum(1) / light.sum(1)
    difference = columns[0].mean() - columns[1].mean()
    assert abs(difference) < 4 * np.hypot(columns[0].std(), columns[1].std()) / np.sqrt(800)


def test_labels_of_moving_digits():
    both, digit, direction = digits(), digits(name="digit"), digits(name="direction")
    assert both.classes[:5] == ("0 left", "0 right", "0 up", "0 down", "1 left")
    assert digit.classes == tuple("0123456789") and len(direction.classes) == 4
    for index in (0, 5, 1234):
        name = both.classes[both.train[index].label]
        assert name == f"{digit.train[index].label} {direction.classes[index % 4]}"
        assert direction.train[index].label == index % 4
        np.testing.assert_array_equal(both.train[index].image, digit.train[index].image)
    np.testing.assert_array_equal(
        known_labels(both.test)[:8], [both.test[i].label for i in range(8)]
    )
    with pytest.raises(DataError, match="its 'digit', its 'direction', or '' for both"):
        digits(name="speed")


def test_held_out_digits_are_others():
    still = SOURCES["digits"](video_data(source="digits", channels=1))
    moving = digits()
    assert len(moving.test) == 4 * len(still.test)
    labels = [int(name.split()[0]) for name in map(moving.classes.__getitem__, moving.test.labels)]
    assert labels[::4] == [still.test[index].label for index in range(len(still.test))]
    assert moving.test.name(5) == f"{still.test.name(1)}, moving right"


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


def test_synthetic_videos():
    splits = SOURCES["synthetic"](video_data(source="synthetic"))
    assert splits.train[0].image.shape == (4, 16, 16, 3)
    assert (splits.train[0].image[0] != splits.train[0].image[1]).any()
