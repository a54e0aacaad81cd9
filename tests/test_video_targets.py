"""Targets of clips: one frame of each patch, and normalisation channel by channel."""

import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from hpm_jax.run.build import build_method
from hpm_jax.targets import one_frame
from hpm_jax.tokens import patchify


def test_one_frame_of_each_patch():
    """Of 16 frames those that mae_st's linspace picks."""
    video = np.random.default_rng(0).normal(size=(1, 16, 8, 8, 3)).astype(np.float32)
    found = one_frame(patchify(jnp.asarray(video), (2, 4, 4)), (8, 2, 2), (2, 4, 4))
    frames = video[:, [0, 2, 4, 6, 8, 10, 12, 15]]
    np.testing.assert_array_equal(found, patchify(jnp.asarray(frames), (1, 4, 4)))


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 16, 31])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_one_frame_of_any_grid(slots, frames):
    """In whole numbers: frame `s (T - 1) // (t - 1)` for slot s of t."""
    number = jnp.arange(slots * frames, dtype=jnp.float32).reshape(1, slots, frames)
    found = np.asarray(one_frame(number, (slots, 1, 1), (frames, 1, 1))).ravel()
    last = slots * frames - 1
    np.testing.assert_array_equal(found, np.arange(slots) * last // max(slots - 1, 1))


def targets_of(target, **data):
    config = small_config(
        data={"frames": 4, "channels": 3, "source": "synthetic"} | data,
        model={"layout": "mae_st", "tubelet": 2},
        target=target,
    )
    method = build_method(config)
    # dark, almost flat patches: there it matters what is added to the deviation
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    images[1] = 7
    images[1, ::2, ::4, ::4] = 8
    images[1, ..., 2] = 20
    patches = patchify(jnp.asarray(images / 255.0, jnp.float32), method.tokenizer.patch_size)
    return method.target_of(method.patches(jnp.asarray(images))), np.asarray(patches, np.float64)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_pixels_normalised_channel_by_channel():
    """VideoMAE: each channel of a patch of pixels in [0, 1], `(x - mean) / (sqrt(var) + 1e-6)`."""
    found, pixels = targets_of("channel_normalized_pixels", **IMAGENET)
    expected = np.zeros_like(pixels)
    for index in np.ndindex(pixels.shape[:2]):
        for channel in range(3):
            values = pixels[index][channel::3]
            assert len(values) == 2 * 4 * 4
            deviation = np.sqrt(values.var(ddof=1)) + 1e-6
            expected[index][channel::3] = (values - values.mean()) / deviation
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-3)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    assert np.isfinite(found).all() and np.abs(found[1, :, 2::3]).max() < 0.2, "a flat channel"


def test_the_eps_of_normalised_pixels_is_one_of_pixels():
    """It shows where the deviation is small: 1e-6 to a deviation of 7e-4 is 0.14 percent."""
    found, pixels = targets_of("channel_normalized_pixels", **IMAGENET)
    values = pixels[1, 0, 0::3]
    spread = np.sqrt(values.var(ddof=1))
    assert 5e-4 < spread < 1e-3
    ratio = (values.max() - values.mean()) / np.max(np.asarray(found[1, 0, 0::3], np.float64))
    np.testing.assert_allclose(ratio - spread, 1e-6, rtol=0.2)


def test_one_frame_is_normalised_by_itself():
    found, pixels = targets_of("normalized_pixels(frames='one')", mean=(0.5,) * 3, std=(0.5,) * 3)
    frames = 2 * pixels - 1
    # two slots of two frames: the first of the first, the last of the last
    picked = np.concatenate([frames[:, :16, :48], frames[:, 16:, 48:]], axis=1)
    deviation = np.sqrt(picked.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
    expected = (picked - picked.mean(axis=-1, keepdims=True)) / deviation
    assert found.shape == (2, 32, 48)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
