"""Histograms of oriented gradients, of images whose gradients have a known angle."""

import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from hpm_jax.config import ConfigError
from hpm_jax.run.build import build_method
from hpm_jax.targets.hog import HOG, histograms
from hpm_jax.targets.target import TargetContext
from hpm_jax.tokens import Tokenizer, patchify


def ramp(degrees, side=32):
    """Brightness grows towards the angle, which counts from the rows to the columns."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle = np.deg2rad(degrees)
    return (np.sin(angle) * x + np.cos(angle) * y)[None, :, :, None]


@pytest.mark.parametrize("degrees", [10, 50, 90, 130, 170, 190, 350])
def test_a_ramp_fills_the_bin_of_its_angle(degrees):
    found = np.asarray(histograms(ramp(degrees), 9, 8, 16))
    assert found.shape == (1, 4, 4, 1, 9)
    inner = found[0, 1:-1, 1:-1, 0]
    expected = np.zeros(9)
    expected[int(degrees % 180 // 20)] = 1
    np.testing.assert_allclose(inner, np.broadcast_to(expected, inner.shape), atol=1e-6)


def test_two_angles_share_by_their_gradients():
    """A cell whose halves change at other speeds, without a window."""
    image = ramp(90, 16)
    image[:, 8:] = 3 * ramp(0, 16)[:, 8:]
    found = np.asarray(histograms(image, 2, 16, 0))[0, 0, 0, 0]
    assert found[1] > 0 and found[0] > found[1]
    np.testing.assert_allclose(np.linalg.norm(found), 1, rtol=1e-5)


def test_contrast_does_not_count_and_nothing_gives_zero():
    image = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(
        histograms(5 * image + 1, 9, 8, 16), histograms(image, 9, 8, 16), atol=1e-4
    )
    assert not np.asarray(histograms(np.ones((1, 16, 16, 1), np.float32), 9, 8, 16)).any()


@pytest.mark.parametrize("frames", [1, 2])
def test_each_patch_has_its_cells(frames):
    """Also of clips, where the middle frame of a patch counts."""
    tokenizer = Tokenizer((frames, 8, 8), (0.0,) * 3, (1.0,) * 3)
    clip = np.random.default_rng(0).random((2, 2 * frames, 16, 16, 3)).astype(np.float32)
    patches, grid = patchify(jnp.asarray(clip), tokenizer.patch_size), (2, 2, 2)
    found = np.asarray(HOG(bins=5, cell=4, window=0)(TargetContext(patches, grid, tokenizer)))
    assert found.shape == (2, 8, 4 * 3 * 5)
    whole = np.asarray(histograms(clip[:, frames + frames // 2], 5, 4, 0))
    np.testing.assert_allclose(found[:, 5], whole[:, :2, 2:].reshape(2, -1), atol=1e-6)


def test_width_and_what_is_refused():
    method = build_method(small_config(target="hog(bins=3, cell=2)"))
    assert method.target_width == 4 * 3
    assert method.target_of(jnp.zeros((1, 16, 16))).shape == (1, 16, 12)
    with pytest.raises(ConfigError, match=r"cell = 8 does not divide config\.model\.patch_size"):
        small_config(target="hog")
