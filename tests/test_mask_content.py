"""Masks by the pixels of the units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_masks import TOKENIZER, context, strategy

from hpm_jax.masking.units import Unit
from hpm_jax.tokens import Tokenizer

GREY = Tokenizer((2, 4, 3), (0.5,), (0.25,))  # two frames in a patch
RED = np.array([0.299, 0.587, 0.114])


def scores(call, images, tokenizer=TOKENIZER, tube=False, seed=0):
    """Of uint8 images or clips, and the context of them."""
    patches = tokenizer(jnp.asarray(images))
    sizes = images.shape[1:-1] if images.ndim == 5 else (1, *images.shape[1:-1])
    grid = tuple(size // patch for size, patch in zip(sizes, tokenizer.patch_size, strict=True))
    unit = Unit(grid, tube)
    patches = unit.merge(patches)
    made = context(len(images), unit.unit_grid, tokenizer=tokenizer, patches=patches)
    return np.asarray(strategy(call).scores(jax.random.key(seed), made))


def standardised(values):
    values = values - values.mean(axis=1, keepdims=True)
    return values / values.std(axis=1, keepdims=True)


def entropy(luminance, bins):
    counts = np.histogram(luminance, bins=bins, range=(0, 1))[0]
    share = counts[counts > 0] / counts.sum()
    return -(share * np.log(share)).sum()


def gradient(frames):
    """Of luminance `[frames, rows, columns]`."""
    rows, columns = np.abs(np.diff(frames, axis=1)), np.abs(np.diff(frames, axis=2))
    return rows.mean() + columns.mean()


MEASURES = {"entropy(bins=7, noise=0)": lambda x: entropy(x, 7), "gradient(noise=0)": gradient}


@pytest.mark.parametrize("call", MEASURES)
def test_images(call):
    """Against a loop over the pixels of each patch."""
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3)).astype(np.uint8)
    images[:, :4] //= 3  # the first row of patches is darker and flatter
    grey = images / 255 @ RED
    expected = np.array(
        [
            [
                MEASURES[call](image[None, row : row + 4, column : column + 4])
                for row in range(0, 12, 4)
                for column in range(0, 16, 4)
            ]
            for image in grey
        ]
    )
    np.testing.assert_allclose(scores(call, images), standardised(expected), atol=1e-3)


@pytest.mark.parametrize("tube", [False, True])
@pytest.mark.parametrize("call", MEASURES)
def test_clips(call, tube):
    """Free tokens of two frames, or tubes of four, by the order of values in a unit."""
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 9, 1)).astype(np.uint8)
    clips[:, :, :4] //= 2
    clips[:, :2, :, :3] //= 4
    grey, length = clips[..., 0] / 255, 4 if tube else 2
    expected = np.array(
        [
            [
                MEASURES[call](clip[start : start + length, row : row + 4, column : column + 3])
                for start in range(0, 4, length)
                for row in range(0, 8, 4)
                for column in range(0, 9, 3)
            ]
            for clip in grey
        ]
    )
    found = scores(call, clips, GREY, tube)
    np.testing.assert_allclose(found, standardised(expected), atol=1e-3)


def test_flat_patches_come_last():
    images = np.full((1, 8, 8, 3), 90, np.uint8)
    images[0, :4, :4] = np.random.default_rng(0).integers(0, 256, (4, 4, 3))
    for name in ("entropy", "gradient"):
        assert scores(f"{name}(noise=0)", images).argmax() == 0
        many = scores(name, np.repeat(images, 500, axis=0)).argmax(axis=1)
        assert 0.6 < (many == 0).mean() < 0.95, "with noise, most often"


@pytest.mark.parametrize("name", ["entropy", "gradient"])
def test_the_same_contrast(name):
    """Standardised in each image: gradients do not depend on contrast, and nothing is NaN."""
    images = np.random.default_rng(0).integers(0, 100, (2, 8, 8, 3)).astype(np.uint8)
    blank = np.full_like(images, 7)
    assert np.isfinite(scores(name, blank)).all()
    np.testing.assert_allclose(scores(f"{name}(noise=0)", blank), 0, atol=1e-3)
    if name == "gradient":
        double = scores("gradient(noise=0)", 2 * images)
        np.testing.assert_allclose(double, scores("gradient(noise=0)", images), atol=1e-3)


def test_gumbel_noise_draws_by_weight():
    """The unit hidden first is one with probability `softmax(score / noise)`."""
    images = np.random.default_rng(2).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    images[0, :4] //= 2
    certain = scores("gradient(noise=0)", images)[0]
    first = scores("gradient(noise=0.5)", np.repeat(images, 8000, axis=0)).argmax(axis=1)
    expected = np.exp(certain / 0.5) / np.exp(certain / 0.5).sum()
    share = np.bincount(first, minlength=4) / 8000
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.25 / 8000))


def test_patches_of_one_pixel():
    """No neighbours in a unit: every gradient is 0."""
    pixel = Tokenizer((1, 1, 1), (0.5,) * 3, (0.5,) * 3)
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 3, 3)).astype(np.uint8)
    np.testing.assert_array_equal(scores("gradient(noise=0)", images, pixel), np.zeros((1, 9)))
