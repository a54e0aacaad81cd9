"""Volumes as slices and as blocks."""

import dataclasses

import numpy as np
import pytest
from own_data import check_batches
from small_images import config_of

from hpm_jax.data.sources import SOURCES, DataError


@pytest.fixture
def scans(tmp_path):
    """Eight volumes of 6 x 20 x 18, each of one number."""
    for number in range(8):
        volume = np.full((6, 20, 18), 100 * number, np.int16) + np.arange(6)[:, None, None]
        np.save(tmp_path / f"{number}.npy", volume.astype(np.int16))
    return tmp_path


def test_volumes_as_slices(scans):
    data = config_of(source="volumes", path=str(scans), holdout=0.25, value_range=(0.0, 1000.0))
    splits = SOURCES["volumes"](data.data)
    assert (len(splits.train), len(splits.test)) == (36, 12)
    values = [int(splits.train[index]["image"][0, 0, 0]) for index in range(36)]
    tests = {int(splits.test[index]["image"][0, 0, 0]) // 100 for index in range(12)}
    assert len(tests) == 2 and not tests & {value // 100 for value in values}, "whole volumes"
    assert [value % 100 for value in values] == list(range(6)) * 6
    assert splits.train.name(7).endswith(".npy, slice 1")
    batch = check_batches(data.data)[0]
    assert batch["image"].shape == (4, 16, 16, 1) and batch["image"].dtype == np.float32


def test_volumes_as_blocks(scans):
    data = config_of(source="volumes", path=str(scans), value_range=(0.0, 1000.0)).data
    data = dataclasses.replace(data, frames=4, frame_stride=1, holdout=0.25)
    batch = check_batches(data)[0]
    assert batch["image"].shape == (4, 4, 16, 16, 1)
    steps = np.diff(batch["image"][:, :, 0, 0, 0], axis=1)
    np.testing.assert_allclose(steps, 1e-3, atol=1e-6)


def test_a_volume_that_is_not_3d(scans):
    np.save(scans / "3.npy", np.zeros((2, 6, 20, 18), np.int16))
    with pytest.raises(DataError, match=r"3\.npy has 4 axes, 2 x 6 x 20 x 18, expected a volume"):
        SOURCES["volumes"](config_of(source="volumes", path=str(scans), holdout=0.25).data)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti(tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    volume = np.arange(9 * 10 * 5, dtype=np.int16).reshape(9, 10, 5)  # x, y, z
    for number in range(4):
        image = nibabel.Nifti1Image(volume + np.int16(number), np.eye(4))
        nibabel.save(image, tmp_path / f"{number}{ending}")
    data = config_of(source="volumes", path=str(tmp_path), holdout=0.25).data
    splits = SOURCES["volumes"](data)
    assert len(splits.train) == 15
    first = splits.train[1]["image"]
    number = int(splits.train.name(1).split(ending)[0][-1])
    np.testing.assert_array_equal(first[..., 0], volume[..., 1].T + number)
    blocks = SOURCES["volumes"](dataclasses.replace(data, frames=5)).train[0]["image"]
    np.testing.assert_array_equal(blocks[..., 0], volume.T + number)
