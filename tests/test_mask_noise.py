"""Masks of coloured noise."""

import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from small_masks import context, strategy, uniform_chance, visible

from hpm_jax.masking.noise import blur

COLOURS = ("red", "green", "random", "blue", "purple")


def filtered(noise, width):
    """Each frame on its own, by scipy."""
    return gaussian_filter(noise, (0, width, width), mode="wrap", truncate=12)


@pytest.mark.parametrize("shape", [(2, 14, 14), (3, 5, 8)])
@pytest.mark.parametrize("width", [0.5, 1.3, 4.0])
def test_blur(shape, width):
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(blur(noise, width), filtered(noise, width), atol=2e-5)


@pytest.mark.parametrize(
    "call, formula",
    [
        ("red(width=1.5)", lambda w: filtered(w, 1.5)),
        ("blue(width=0.7)", lambda w: w - filtered(w, 0.7)),
        ("green(narrow=0.6, wide=1.5)", lambda w: filtered(w, 0.6) - filtered(w, 1.5)),
        ("purple(narrow=0.6, wide=1.5)", lambda w: w - filtered(w, 0.6) + filtered(w, 1.5)),
    ],
)
def test_formulas(call, formula):
    """The largest values stay visible, so that the scores are their negatives."""
    noise = jax.random.normal(jax.random.key(0), (3, 6, 8))
    scores = strategy(call).scores(jax.random.key(0), context(3, (1, 6, 8)))
    np.testing.assert_allclose(scores.reshape(3, 6, 8), -formula(np.asarray(noise)), atol=2e-5)


def neighbours(shown):
    """Pairs of visible units side by side, in one frame on average."""
    down = shown[..., 1:, :] & shown[..., :-1, :]
    right = shown[..., 1:] & shown[..., :-1]
    frames = shown.shape[0] * shown.shape[1]
    return (down.sum() + right.sum()) / frames


@pytest.mark.parametrize("grid", [(1, 14, 14), (2, 14, 14)])
def test_neighbours(grid):
    """Red clusters most and purple least; the random masks lie where chance puts them."""
    made = context(400, grid)
    pairs = [neighbours(visible(colour, made)) for colour in COLOURS]
    assert all(np.diff(pairs) < -1), dict(zip(COLOURS, pairs, strict=True))
    chance = 2 * 14 * 13 * (49 / 196) * (48 / 195)
    assert abs(pairs[2] - chance) < 0.5
    np.testing.assert_allclose(pairs, [71.2, 28.9, 22.4, 16.5, 14.8], atol=1.0)


@pytest.mark.parametrize("colour", ["red", "green", "blue", "purple"])
def test_every_unit_is_as_likely(colour):
    """The filters are circular, so that borders are like the middle."""
    assert uniform_chance(visible(colour, context(3000, (1, 6, 8))), 0.25)


@pytest.mark.parametrize("colour", ["red", "green", "blue", "purple"])
def test_frames_of_a_clip(colour):
    shown = visible(colour, context(50, (2, 6, 8)))
    assert (shown.sum(axis=(2, 3)) == 12).all(), "each frame has its share"
    assert (shown[:, 0] != shown[:, 1]).any(axis=(1, 2)).all()
