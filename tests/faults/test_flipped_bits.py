"""Bits of a checkpoint that are flipped never reach the state."""

import numpy as np
import pytest
from test_checkpoints import restore, same, save_three


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_reach_the_state(tmp_path, seed):
    """Each flip is noticed, by the reader or by the digest, or changes no array."""
    folder = tmp_path / "checkpoints"
    _, before, expected = save_three(folder)
    rng = np.random.default_rng(seed)
    files = sorted(p for p in (folder / "9").rglob("*") if p.is_file() and p.parent.name == "d")
    path = files[int(np.argmax([p.stat().st_size for p in files]))]
    data = bytearray(path.read_bytes())
    for place in rng.integers(len(data), size=2):
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    state, said = restore(folder)
    if said:
        assert int(state.step) == 6 and same(state, before) and "9 is damaged" in said[0]
    else:
        assert same(state, expected)
