"""Parquet files and data sets of Hugging Face."""

import dataclasses
import os

import pytest
from own_data import IMAGES, LABELS, check_batches, data_of

from hpm_jax.data.sources import SOURCES, DataError


@pytest.fixture
def parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def write(path, columns, size=4):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=size)
        return path

    return write


@pytest.mark.parametrize("struct", [True, False])
def test_parquet(tmp_path, parquet, struct):
    images = [{"bytes": image, "path": None} for image in IMAGES] if struct else IMAGES
    parquet(tmp_path / "train-0.parquet", {"n": range(9), "image": images[:9], "label": LABELS[:9]})
    parquet(tmp_path / "test-0.parquet", {"n": range(3), "image": images[9:], "label": LABELS[9:]})
    data = data_of("parquet", tmp_path)
    splits = SOURCES["parquet"](data)
    assert splits.classes == ("cat", "dog") and len(splits.test) == 3
    assert [splits.train[index]["image"] for index in (8, 0, 5)] == [IMAGES[n] for n in (8, 0, 5)]
    assert splits.train[0]["label"] == 1 and splits.test[1]["label"] == 0
    assert splits.train.name(6).endswith("train-0.parquet, row 6 (row group 1, 2)")
    check_batches(data, workers=struct)
    plain = SOURCES["parquet"](dataclasses.replace(data, label_key="none"))
    assert plain.classes == () and plain.train[0]["label"] == -1


def test_parquet_without_images(tmp_path, parquet):
    parquet(tmp_path / "a.parquet", {"n": range(9), "text": LABELS[:9]})
    with pytest.raises(DataError, match=r"no column of encoded images.*n \(int64\), text \(string"):
        SOURCES["parquet"](data_of("parquet", tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="is no whole Parquet file"):
        SOURCES["parquet"](data_of("parquet", tmp_path))
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        SOURCES["parquet"](data_of("parquet", tmp_path / "nowhere"))


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        picture=datasets.Image(), kind=datasets.ClassLabel(names=["dog", "cat"])
    )
    rows = {
        "picture": [{"bytes": image, "path": None} for image in IMAGES],
        "kind": LABELS,
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    parts = datasets.DatasetDict(
        train=whole.select(range(9)), validation=whole.select(range(9, 12))
    )
    parts.save_to_disk(tmp_path / "saved")
    data = data_of("hugging_face", tmp_path / "saved")
    splits = SOURCES["hugging_face"](data)
    assert splits.classes == ("dog", "cat"), "in the order of the ClassLabel"
    assert [splits.train[index]["image"] for index in range(9)] == IMAGES[:9]
    assert [splits.test[index]["label"] for index in range(3)] == [0, 1, 1]
    check_batches(data, workers=1)
    os.makedirs(tmp_path / "files")
    whole.to_parquet(tmp_path / "files" / "all.parquet")
    for source in ("hugging_face", "parquet"):
        held_out = SOURCES[source](data_of(source, tmp_path / "files", label_key="kind"))
        assert held_out.classes == ("dog", "cat") and len(held_out.train) == 9
        assert held_out.train[0]["image"] in IMAGES
    with pytest.raises(DataError, match="no image column 'kind', but picture"):
        SOURCES["hugging_face"](dataclasses.replace(data, image_key="kind"))
    with pytest.raises(DataError, match=r"config\.data\.path and config.data.name are empty"):
        SOURCES["hugging_face"](dataclasses.replace(data, path=""))
