"""Ranking losses against the official formulas, written out pair by pair in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.losses import pairs_ranked_correctly, squared_error
from hpm_jax.losses.ranking import absolute, relative
from hpm_jax.targets import normalized_pixels, patch_statistics


def official_relative(predicted, loss):
    """Over ordered pairs, both directions, as the official code has it."""
    delta = predicted[:, None, :] - predicted[:, :, None]
    above = loss[:, None, :] > loss[:, :, None]
    below = loss[:, None, :] < loss[:, :, None]
    sigmoid = 1 / (1 + np.exp(-delta))
    cost = np.where(above, -np.log(sigmoid + 1e-6), 0)
    cost = np.where(below, -np.log(1 - sigmoid + 1e-6), cost)
    return cost.sum() / (above.sum() + below.sum())


def draw(patches, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [x.astype(np.float32) for x in rng.normal(scale=scale, size=(2, 3, patches))]


@pytest.mark.parametrize("patches", [2, 3, 4, 27, 48, 147])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_relative(patches, scale):
    predicted, loss = draw(patches, scale=scale)
    expected = official_relative(predicted.astype(np.float64), loss.astype(np.float64))
    np.testing.assert_allclose(relative(predicted, loss), expected, rtol=2e-5)


def test_relative_leaves_out_ties():
    predicted, loss = draw(9)
    loss = np.round(loss)
    expected = official_relative(predicted.astype(np.float64), loss.astype(np.float64))
    np.testing.assert_allclose(relative(predicted, loss), expected, rtol=1e-5)


def test_relative_of_ties_alone_is_zero():
    predicted, _ = draw(9)
    value, gradient = jax.value_and_grad(relative)(predicted, jnp.ones_like(predicted))
    assert value == 0 and not gradient.any(), "the official code divides zero by zero here"


def test_relative_gradient():
    """Saturating: the eps inside the logarithm takes the force from badly wrong pairs."""
    for distance, expected in ((-8, -0.997), (-12, -0.86), (-14, -0.45), (-20, -0.002)):
        predicted, loss = jnp.array([[float(distance), 0.0]]), jnp.array([[1.0, 0.0]])
        gradient = jax.grad(relative)(predicted, loss)
        np.testing.assert_allclose(gradient[0], [expected, -expected], atol=5e-3)


def test_no_gradient_reaches_the_true_loss():
    predicted, loss = draw(8)
    for ranking in (relative, absolute):
        assert not jax.grad(ranking, argnums=1)(predicted, loss).any()
        assert jax.grad(ranking, argnums=0)(predicted, loss).any()


def test_absolute():
    predicted, loss = draw(8)
    standardised = (loss - loss.mean(1, keepdims=True)) / np.sqrt(
        loss.var(1, ddof=1, keepdims=True) + 1e-6
    )
    expected = np.square(predicted - standardised).mean()
    np.testing.assert_allclose(absolute(predicted, loss), expected, rtol=1e-5)


def test_pairs_ranked_correctly():
    loss = jnp.array([[0.0, 1.0, 2.0, 2.0]])
    assert pairs_ranked_correctly(loss, loss) == 1
    assert pairs_ranked_correctly(-loss, loss) == 0
    # of the five pairs that are no ties, (0, 1) is wrong
    np.testing.assert_allclose(
        pairs_ranked_correctly(jnp.array([[1.0, 0.0, 5.0, 6.0]]), loss), 0.8, rtol=1e-6
    )


def test_squared_error_is_not_reduced_over_patches():
    prediction, target = jnp.ones((2, 5, 3)), jnp.zeros((2, 5, 3))
    assert squared_error(prediction, target).shape == (2, 5)
    np.testing.assert_allclose(squared_error(prediction * 2, target), 4.0)


def test_normalized_pixels():
    patches = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 12)).astype(np.float32)
    normalized = normalized_pixels(jnp.asarray(patches))
    expected = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(
        patches.var(-1, ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(normalized, expected, rtol=1e-4, atol=1e-5)
    mean, deviation = patch_statistics(jnp.asarray(patches))
    np.testing.assert_allclose(normalized * deviation + mean, patches, rtol=1e-4, atol=1e-5)


def test_normalized_pixels_of_a_flat_patch_are_finite():
    assert not normalized_pixels(jnp.full((1, 1, 12), 7.0)).any()
