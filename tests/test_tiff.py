"""TIFF of any bands and bits."""

import dataclasses

import numpy as np
import pytest
from own_data import data_of
from small_images import config_of

from hpm_jax.data.decoding import BrokenImage, EncodedImage
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.tasks.data import check_kind


def write_tiff(folder, count, shape, dtype, **options):
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 4000, (count, *shape)).astype(dtype)
    for number, array in enumerate(arrays):
        tifffile.imwrite(folder / f"{number:02}.tif", array, **options)
    return arrays


@pytest.mark.parametrize(
    ("shape", "axes", "options"),
    [
        ((20, 18, 7), "yxc", {"planarconfig": "contig"}),
        ((7, 20, 18), "cyx", {"planarconfig": "separate"}),
        ((7, 20, 18), "cyx", {}),
        ((20, 18), "yx", {}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int16])
def test_tiff_of_any_bands_and_bits(tmp_path, shape, axes, options, dtype):
    if len(shape) == 3:
        options = {"photometric": "minisblack", **options}
    arrays = write_tiff(tmp_path, 12, shape, dtype, **options)
    bands = 7 if len(shape) == 3 else 1
    values = {"mean": (0.5,) * bands, "std": (0.5,) * bands, "value_range": (0.0, 4000.0)}
    data = config_of(source="folder", path=str(tmp_path), channels=bands, **values).data
    data = dataclasses.replace(data, image_size=(20, 18), test_crop=1.0)
    from hpm_jax.data.views import center_crop

    records = SOURCES["folder"](data).train.records
    found = center_crop(records[4], data)["image"]
    expected = arrays[4] if axes[0] != "c" else arrays[4].transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected.reshape(20, 18, bands) / 4000, atol=1e-6)


def test_a_tiff_that_is_cut_is_a_broken_image(tmp_path):
    write_tiff(tmp_path, 1, (20, 18, 7), np.uint16, photometric="minisblack", planarconfig="contig")
    whole = (tmp_path / "00.tif").read_bytes()
    assert EncodedImage(whole).channels == 7
    for length in (6, 100, len(whole) // 2):
        with pytest.raises(BrokenImage):
            EncodedImage(whole[:length])


def test_a_tiff_of_other_bands(tmp_path):
    write_tiff(
        tmp_path, 12, (20, 18, 7), np.uint16, photometric="minisblack", planarconfig="contig"
    )
    data = data_of("folder", tmp_path)
    with pytest.raises(DataError, match=r"7 channels, and config\.data\.channels is 3: --con"):
        check_kind(SOURCES["folder"](data).train, data)
