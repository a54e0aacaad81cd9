"""Where videos come from: lists, folders, and digits that are made to move."""

import numpy as np
import pytest
from small_videos import video_data

from hpm_jax.data.sources import SOURCES, DataError, known_labels

# --- folders and lists


def test_a_folder_without_videos(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no videos: expected files that end in \.mp4"):
        SOURCES["video_folder"](video_data(path=str(tmp_path)))
    with pytest.raises(DataError, match=r"holds the videos, as in --config.data.path=/data/my_vid"):
        SOURCES["video_folder"](video_data(path=""))


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
    return [
        (record["image"].decode(), record["label"]) for record in map(records.__getitem__, range(3))
    ]


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
        video, label = splits.train[int(index)].values()
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
    videos = np.stack([train[index]["image"] for index in range(0, 800, 4)])
    lit = videos[..., 0].max((0, 1)) > 0
    assert lit.mean() > 0.9, "somewhere they are everywhere"
    heights = [np.ptp(np.flatnonzero(v[0].any((1, 2)))) + 1 for v in videos]
    assert 10 <= max(heights) <= 0.5 * 32


def test_no_single_frame_tells_the_direction():
    """The digit stands in the same places on its way to the left as on its way to the right."""
    splits = digits(frames=2)
    columns = {}
    for direction in (0, 1):
        videos = [splits.train[4 * index + direction]["image"] for index in range(800)]
        light = np.stack(videos)[..., 0].astype(float).sum((1, 2))
        columns[direction] = (light * np.arange(40)).sum(1) / light.sum(1)
    difference = columns[0].mean() - columns[1].mean()
    assert abs(difference) < 4 * np.hypot(columns[0].std(), columns[1].std()) / np.sqrt(800)


def test_labels_of_moving_digits():
    both, digit, direction = digits(), digits(name="digit"), digits(name="direction")
    assert both.classes[:5] == ("0 left", "0 right", "0 up", "0 down", "1 left")
    assert digit.classes == tuple("0123456789") and len(direction.classes) == 4
    for index in (0, 5, 1234):
        name = both.classes[both.train[index]["label"]]
        assert name == f"{digit.train[index]['label']} {direction.classes[index % 4]}"
        assert direction.train[index]["label"] == index % 4
        np.testing.assert_array_equal(both.train[index]["image"], digit.train[index]["image"])
    np.testing.assert_array_equal(
        known_labels(both.test)[:8], [both.test[i]["label"] for i in range(8)]
    )
    with pytest.raises(DataError, match="its 'digit', its 'direction', or '' for both"):
        digits(name="speed")


def test_held_out_digits_are_others():
    still = SOURCES["digits"](video_data(source="digits", channels=1))
    moving = digits()
    assert len(moving.test) == 4 * len(still.test)
    labels = [int(name.split()[0]) for name in map(moving.classes.__getitem__, moving.test.labels)]
    assert labels[::4] == [still.test[index]["label"] for index in range(len(still.test))]
    assert moving.test.name(5) == f"{still.test.name(1)}, moving right"


def test_synthetic_videos():
    splits = SOURCES["synthetic"](video_data(source="synthetic"))
    assert splits.train[0]["image"].shape == (4, 16, 16, 3)
    assert (splits.train[0]["image"][0] != splits.train[0]["image"][1]).any()
