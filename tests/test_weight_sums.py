"""Files of weights: a flipped bit is noticed, and what is no number is not written."""

import numpy as np
import pytest

from hpm_jax.convert.files import read_file, write_file
from hpm_jax.convert.weights import WeightsError

STATE = {"b": np.arange(600, dtype=np.float32), "a": np.ones((2, 3), np.float32)}


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_a_flipped_bit_is_noticed(tmp_path, ending):
    path = tmp_path / f"weights{ending}"
    write_file(path, STATE, {})
    found = read_file(path).state
    assert all(np.array_equal(found[name], value) for name, value in STATE.items())
    data = bytearray(path.read_bytes())
    data[data.index(STATE["b"][300:302].tobytes())] ^= 4
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"checksum|not whole"):
        read_file(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    path = tmp_path / "weights.npz"
    with pytest.raises(WeightsError, match="a holds numbers that are not finite"):
        write_file(path, STATE | {"a": np.array([1.0, value], np.float32)}, {})
    assert not path.exists()
