"""Images that lists name, as HPM's train.txt does, and lists that cannot be right."""

import numpy as np
import pytest
from PIL import Image

from hpm_jax.config import Data
from hpm_jax.data.records import DataError
from hpm_jax.data.scored import scored_split
from hpm_jax.data.sources import SOURCES


def images_in(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / name)


@pytest.fixture
def root(tmp_path):
    images_in(tmp_path / "train", ["n1/a.png", "n1/b c.png", "n2/d.png"])
    images_in(tmp_path / "val", ["e.png", "f.png"])
    (tmp_path / "train.txt").write_text("n1/a.png 0\nn1/b c.png 0\n\nn2/d.png 11\n")
    (tmp_path / "val.txt").write_text("e.png 11\nf.png 0\n")
    return tmp_path


def read(path, **changes):
    return SOURCES["list"](Data(source="list", path=str(path), **changes))


def test_lists_as_hpm_has_them(root):
    """Paths are from the folder of the list's name; labels are numbers, in their order."""
    splits = read(root)
    assert splits.classes == ("0", "11")
    assert splits.train.labels.tolist() == [0, 0, 1] and splits.test.labels.tolist() == [1, 0]
    assert splits.train.name(1) == str(root / "train" / "n1" / "b c.png")
    assert splits.train[1]["image"] == (root / "train" / "n1" / "b c.png").read_bytes()


def test_a_classifier_is_scored_by_the_test_list_alone(root):
    (root / "train.txt").unlink()
    records, classes = scored_split(Data(source="list", path=str(root)), "any")
    assert classes == ("0", "11") and records.labels.tolist() == [1, 0]


def test_other_places_and_no_labels(root, tmp_path_factory):
    """From the folder of the list, or absolute; a share is held out without a test list."""
    lists = tmp_path_factory.mktemp("lists")
    images_in(lists, ["x.png"])
    paths = ["x.png", *(str(root / "val" / name) for name in ("e.png", "f.png"))]
    (lists / "mine.txt").write_text("\n".join(paths))
    splits = read(lists, train_split="mine", holdout=0.34)
    assert (len(splits.train), len(splits.test), splits.classes) == (2, 1, ())
    assert {splits.train[i]["label"] for i in range(2)} == {-1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train", "n1/a.png 0\nn1/z.png 1\n", r"train\.txt, line 2: there is no .*n1/z\.png"),
        ("train", "n1/a.png 0\n\nn1/a.png 0\n", r"line 3: n1/a\.png is there twice.*in line 1"),
        ("train", "n1/a.png 0\nn2/d.png cat\n", r"line 2: 'n2/d\.png cat' has no label"),
        ("train", "n1/a.png 0\nn2/d.png -1\n", r"line 2: 'n2/d\.png -1' has no label"),
        ("train", "n1/a.png 0\nn2/d.png\n", r"line 2: 'n2/d\.png' has no label, a number from 0"),
        ("train", "\n", r"train\.txt names no images"),
        ("val", "e.png 0\nf.png 5\n", r"val\.txt, line 2: the training list has no label 5"),
    ],
)
def test_lists_that_cannot_be_right(root, name, text, message):
    (root / f"{name}.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read(root)


def test_no_list(tmp_path):
    with pytest.raises(DataError, match=r"holds no train\.txt: give the folder of the lists"):
        read(tmp_path)
