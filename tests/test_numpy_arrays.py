"""Arrays in .npy and .npz files, and arrays that cannot be trained on."""

import numpy as np
import pytest
from own_data import LABELS, check_batches, data_of

from hpm_jax.data.fingerprint import fingerprint
from hpm_jax.data.sources import SOURCES, DataError, known_labels

STACK = np.random.default_rng(0).integers(0, 256, (12, 20, 18, 3), dtype=np.uint8)


def test_npz_arrays_are_found_by_name(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(
            tmp_path / "a.npz",
            x_train=STACK[:8],
            y_train=np.arange(8)[:, None] % 2 + 5,
            x_test=STACK[8:],
            y_test=np.full(4, 6),
        )
        data = data_of("numpy", tmp_path / "a.npz")
        splits = SOURCES["numpy"](data)
        assert splits.classes == ("5", "6") and len(splits.test) == 4
        np.testing.assert_array_equal(splits.train[3]["image"], STACK[3])
        assert list(known_labels(splits.train)) == [0, 1] * 4
        assert splits.test[0]["label"] == 1
        (tmp_path / "a.npz").rename(tmp_path / f"{save.__name__}.npz")
    check_batches(data_of("numpy", tmp_path / "savez.npz"), workers=1)


@pytest.mark.parametrize("names", [("images", "labels"), ("faces", "faces_labels"), ("x", "y")])
def test_npy_files_are_mapped(tmp_path, names):
    np.save(tmp_path / f"{names[0]}.npy", STACK)
    np.save(tmp_path / f"{names[1]}.npy", np.array(LABELS))
    for path in (tmp_path, tmp_path / f"{names[0]}.npy"):
        splits = SOURCES["numpy"](data_of("numpy", path))
        assert splits.classes == ("cat", "dog") and len(splits.train) + len(splits.test) == 12
    before = fingerprint(splits)
    np.save(tmp_path / f"{names[0]}.npy", STACK[::-1])
    from hpm_jax.data.numpy_arrays import open_array

    open_array.cache_clear()
    assert fingerprint(SOURCES["numpy"](data_of("numpy", path))) != before


def test_channels_first(tmp_path):
    np.save(tmp_path / "images.npy", STACK.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match=r"looks like \[N, C, H, W\]: --config.data.channels_first"):
        SOURCES["numpy"](data_of("numpy", tmp_path))
    splits = SOURCES["numpy"](data_of("numpy", tmp_path, channels_first=True))
    assert splits.classes == ()
    index = splits.train.indices[2]
    np.testing.assert_array_equal(splits.train[2]["image"], STACK[index])


def test_arrays_that_cannot_be_trained_on(tmp_path):
    def refuse(match, path=tmp_path / "a.npz", **options):
        with pytest.raises(DataError, match=match):
            SOURCES["numpy"](data_of("numpy", path, **options))

    refuse(r"holds no \.npy or \.npz file", tmp_path)
    np.savez(tmp_path / "a.npz", weights=np.ones(3), bias=np.ones((2, 2)))
    refuse(r"has no images among its arrays \(weights \(3,\), bias \(2, 2\)\)")
    np.savez(tmp_path / "a.npz", images=STACK, labels=np.arange(11))
    refuse("has 11 labels and 12 images: give one label for each image")
    assert len(SOURCES["numpy"](data_of("numpy", tmp_path / "a.npz", label_key="none")).test) == 3
    refuse("no array 'x'", image_key="x")
    np.savez(tmp_path / "b.npz", images=np.array([{}, {}], dtype=object))
    refuse("cannot be read.*save numbers", tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes(b"PK")
    refuse("is no whole .npz file", tmp_path / "b.npz")
