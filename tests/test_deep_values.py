"""Values of 16 and 32 bits keep their precision, and need a range."""

import dataclasses

import numpy as np
import pytest
from own_data import data_of
from small_images import config_of

from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.tasks.data import check_kind, load_data


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_values_keep_their_precision(tmp_path, dtype):
    stack = np.random.default_rng(0).uniform(1000, 1100, (12, 16, 16, 5)).astype(dtype)
    np.save(tmp_path / "images.npy", stack)
    options = {"channels": 5, "mean": (0.5,) * 5, "std": (0.2,) * 5, "crop_scale": (1.0, 1.0)}
    options |= {"crop_ratio": (1.0, 1.0), "flip": 0.0, "value_range": (1000.0, 1100.0)}
    config = config_of(source="numpy", path=str(tmp_path), **options)
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, batch_size=4)
    )
    splits = load_data(config)
    batch = next(train_batches(splits.train, config))
    assert batch["image"].dtype == np.float32
    index = splits.train.indices[batch["index"][1]]
    expected = (stack[index].astype(np.float32) - 1000) / 100
    np.testing.assert_allclose(batch["image"][1], expected, atol=1e-6)


def test_float_values_need_a_range(tmp_path):
    np.save(tmp_path / "images.npy", np.linspace(-2, 2, 12 * 16 * 16 * 3).reshape(12, 16, 16, 3))
    splits = SOURCES["numpy"](data_of("numpy", tmp_path))
    with pytest.raises(DataError, match=r"float64 values.*--config.data.value_range='\("):
        check_kind(splits.train, data_of("numpy", tmp_path))


def test_nan_pixels_are_named(tmp_path):
    stack = np.zeros((12, 16, 16, 3), np.float32)
    stack[:, 3, 4, 1] = np.nan
    np.save(tmp_path / "images.npy", stack)
    data = data_of("numpy", tmp_path, value_range=(0.0, 1.0))
    with pytest.raises(DataError, match="image 0: 1 of 768 values are NaN or infinite: replace"):
        check_kind(SOURCES["numpy"](data).train, data)
