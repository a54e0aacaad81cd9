"""Checksums of states: every flipped bit, any topology."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.run.digest import LARGE, MIXER, digest, not_finite


def tree():
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((4, 6)).astype(np.float32),
        "b": rng.integers(0, 9, 5).astype(np.int32),
        "c": np.float32(3.0),
        "d": jnp.asarray(rng.standard_normal((3, 2)), jnp.bfloat16),
    }


def test_every_flipped_bit_changes_it():
    whole = np.asarray(digest(tree()))
    rng = np.random.default_rng(1)
    for _ in range(60):
        flipped = tree()
        words = flipped["a"].view(np.uint32)
        words[rng.integers(4), rng.integers(6)] ^= np.uint32(1) << np.uint32(rng.integers(32))
        found = np.asarray(digest(flipped))
        assert found[0] != whole[0] and (found[1:] == whole[1:]).all()


def test_arrays_that_change_places_change_it():
    swapped = tree()
    swapped["a"] = swapped["a"][:, ::-1]
    assert digest(swapped)[0] != digest(tree())[0]


def test_it_does_not_depend_on_the_devices():
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("one device")
    mesh = jax.make_mesh((2,), ("data",), devices=devices[:2])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    there = tree() | {"a": jax.device_put(tree()["a"], split)}
    for name in ("b", "c", "d"):
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        there[name] = jax.device_put(there[name], whole)
    np.testing.assert_array_equal(digest(there), digest(tree()))


@pytest.mark.parametrize("size", [LARGE, LARGE + 5])
def test_large_arrays_are_weighed_like_small_ones(size):
    words = np.random.default_rng(2).integers(0, 2**32, size, dtype=np.uint32)
    weights = (np.arange(size, dtype=np.uint32) * np.uint32(MIXER)) << 1 | np.uint32(1)
    expected = np.sum(words * weights, dtype=np.uint32)
    assert digest(jnp.asarray(words))[0] == expected == digest(jnp.asarray(words[None]))[0]


def test_what_is_not_finite_is_named():
    broken = {"params": {"kernel": jnp.array([1.0, jnp.nan])}, "step": jnp.int32(3)}
    broken["teacher"] = {"bias": jnp.array([jnp.inf])}
    assert not_finite(broken) == ["params/kernel", "teacher/bias"]
    assert not_finite(tree()) == [] and not_finite({"step": jnp.int32(1)}) == []
