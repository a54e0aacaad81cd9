"""Tar files of WebDataset, their index, and tar files that cannot be trained on."""

import dataclasses
import io
import json
import tarfile

import pytest
from own_data import IMAGES, LABELS, check_batches, data_of

from hpm_jax.data import tar_index
from hpm_jax.data.fingerprint import fingerprint
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.data.tar_index import expand_braces


def write_tar(path, numbers, labels="cls"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            members = {"png": IMAGES[number]}
            if labels == "cls":
                members["cls"] = LABELS[number].encode()
            elif labels == "json":
                members["json"] = json.dumps({"label": number % 2, "kind": LABELS[number]}).encode()
            for ending, content in members.items():
                info = tarfile.TarInfo(f"sample{number:04}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_webdataset(tmp_path):
    write_tar(tmp_path / "train-000.tar", range(5))
    write_tar(tmp_path / "train-001.tar", range(5, 9))
    write_tar(tmp_path / "val-000.tar", range(9, 12))
    data = data_of("webdataset", tmp_path)
    splits = SOURCES["webdataset"](data)
    assert splits.classes == ("cat", "dog")
    assert [splits.train[index]["image"] for index in range(9)] == IMAGES[:9]
    assert [splits.test[index]["label"] for index in range(3)] == [1, 0, 0]
    assert splits.train.name(6).endswith("train-001.tar, sample0006")
    check_batches(data)
    pattern = data_of("webdataset", tmp_path / "train-{000..001}.tar")
    again = SOURCES["webdataset"](
        dataclasses.replace(pattern, test_split=str(tmp_path / "val-*.tar"))
    )
    assert fingerprint(again) == fingerprint(splits)


def test_the_index_of_a_tar_is_made_once_and_again_when_it_changes(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", range(6), "json")
    made = []
    make = tar_index.make_index
    monkeypatch.setattr(tar_index, "make_index", lambda *a: made.append(a) or make(*a))
    data = data_of("webdataset", tmp_path)
    first = SOURCES["webdataset"](data)
    assert first.classes == ("0", "1")
    SOURCES["webdataset"](data)
    assert len(made) == 1 and (tmp_path / "a.tar.index.json").exists()
    (tmp_path / "a.tar.index.json").write_text("{")
    SOURCES["webdataset"](data)
    assert len(made) == 2, "a damaged index is made again"
    write_tar(tmp_path / "a.tar", range(8), "json")
    assert len(SOURCES["webdataset"](dataclasses.replace(data, label_key="kind")).train) == 6
    assert len(made) == 3


def test_the_index_of_a_read_only_place_is_in_the_cache(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", range(6))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside = tmp_path / "a.tar.index.json"
    beside.mkdir()  # neither read nor replaced, as in a place that is read-only
    (beside / "x").touch()
    SOURCES["webdataset"](data_of("webdataset", tmp_path / "a.tar"))
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1


@pytest.mark.parametrize("share", [0.4, 0.93])
def test_a_tar_that_is_cut(tmp_path, share):
    write_tar(tmp_path / "a.tar", range(6))
    whole = (tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "a.tar").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"a\.tar is cut.*copy it again"):
        SOURCES["webdataset"](data_of("webdataset", tmp_path))


def test_tars_that_cannot_be_trained_on(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.tar files"):
        SOURCES["webdataset"](data_of("webdataset", tmp_path))
    with pytest.raises(DataError, match="there is no tar file"):
        SOURCES["webdataset"](data_of("webdataset", tmp_path / "x-{0..3}.tar"))
    (tmp_path / "a.tar").write_bytes(b"no tar" * 500)
    with pytest.raises(DataError, match="cut or no tar file"):
        SOURCES["webdataset"](data_of("webdataset", tmp_path))
    write_tar(tmp_path / "a.tar", ())
    with pytest.raises(DataError, match="hold no images"):
        SOURCES["webdataset"](data_of("webdataset", tmp_path))
    write_tar(tmp_path / "a.tar", range(4))
    write_tar(tmp_path / "b.tar", range(4, 8), labels="")
    with pytest.raises(DataError, match=r"8 images and 4 labels.*sample0004 has none"):
        SOURCES["webdataset"](data_of("webdataset", tmp_path))


def test_braces():
    assert expand_braces("a{08..10}{x,y}") == [f"a{n}{c}" for n in ("08", "09", "10") for c in "xy"]
