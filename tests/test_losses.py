"""Ranking losses against the official formulas, written out pair by pair in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.losses import pairs_ranked_correctly, ranking, squared_error
from hpm_jax.losses.reconstruction import Objective
from hpm_jax.targets import NormalizedPixels, TargetContext, patch_statistics
from hpm_jax.tokens import Tokenizer

relative, absolute = jax.jit(ranking.relative), jax.jit(ranking.absolute)


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
    for loss_of in (relative, absolute):
        assert not jax.grad(loss_of, argnums=1)(predicted, loss).any()
        assert jax.grad(loss_of, argnums=0)(predicted, loss).any()


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


def draw_counted(patches):
    """Which patches count, image by image, from two to all of them."""
    rng = np.random.default_rng(patches)
    counts = (2, max(patches // 2, 2), patches)
    order = rng.permuted(np.tile(np.arange(patches), (3, 1)), axis=1)
    return order < np.array(counts)[:, None]


def image_by_image(loss_of, predicted, loss, counted):
    """The mean over images of a loss of the patches that count, in each alone."""
    rows = zip(predicted, loss, counted, strict=True)
    return [loss_of(p[None, c], t[None, c]) for p, t, c in rows]


@pytest.mark.parametrize("patches", [3, 9, 48])
def test_relative_of_the_patches_that_count(patches):
    """A mean over the pairs of all images, whatever stands at the others."""
    predicted, loss = draw(patches)
    counted = draw_counted(patches)
    pairs = [n * (n - 1) / 2 for n in counted.sum(axis=1)]
    each = image_by_image(official_relative, *np.float64((predicted, loss)), counted)
    found, slope = jax.value_and_grad(relative)(predicted, loss, counted=counted)
    np.testing.assert_allclose(found, np.average(each, weights=pairs), rtol=2e-5)
    assert not slope[~counted].any() and slope[counted].all()
    other = np.where(counted, predicted, 1e3), np.where(counted, loss, -1e3)
    np.testing.assert_array_equal(relative(*other, counted=counted), found)


@pytest.mark.parametrize("patches", [3, 9, 48])
def test_absolute_of_the_patches_that_count(patches):
    """The losses are standardised among those that count; each of them weighs the same."""
    predicted, loss = draw(patches)
    counted = draw_counted(patches)
    each = image_by_image(absolute, predicted, loss, counted)
    found, slope = jax.value_and_grad(absolute)(predicted, loss, counted)
    np.testing.assert_allclose(found, np.average(each, weights=counted.sum(axis=1)), rtol=1e-5)
    assert not slope[~counted].any() and slope[counted].all()
    other = np.where(counted, predicted, 1e3), np.where(counted, loss, -1e3)
    np.testing.assert_allclose(absolute(*other, counted), found, rtol=1e-5)


@pytest.mark.parametrize("loss_of", [relative, absolute], ids=["relative", "absolute"])
def test_where_all_count_nothing_changes(loss_of):
    predicted, loss = draw(9)
    all_count = loss_of(predicted, loss, counted=np.ones((3, 9), bool))
    np.testing.assert_allclose(all_count, loss_of(predicted, loss), rtol=1e-6)


def test_a_single_patch_that_counts_has_a_loss_that_is_a_number():
    """Its standardised loss is 0, and there is no pair."""
    predicted, loss = draw(9)
    counted = np.arange(9) == np.array([[0], [3], [8]])
    found, slope = jax.value_and_grad(absolute)(predicted, loss, counted)
    np.testing.assert_allclose(found, np.square(predicted[counted]).mean(), rtol=1e-6)
    assert np.isfinite(slope).all()
    assert relative(predicted, loss, counted=counted) == 0


def test_pairs_ranked_correctly_of_the_patches_that_count():
    loss = jnp.array([[0.0, 1.0, 2.0, 3.0]])
    predicted = jnp.array([[1.0, 0.0, 5.0, 4.0]])
    counted = jnp.array([[True, True, True, False]])
    # of the three pairs of the first three, (0, 1) is wrong
    share = pairs_ranked_correctly(predicted, loss, counted=counted)
    np.testing.assert_allclose(share, 2 / 3, rtol=1e-6)


def normalized_pixels(patches):
    """The target of patches `[B, L, P]` of one channel, in one row."""
    tokenizer = Tokenizer((1, 1, patches.shape[-1]), (0.5,), (0.5,))
    return NormalizedPixels()(TargetContext(patches, (1, 1, patches.shape[1]), tokenizer))


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


def objective(call, prediction, target):
    return Objective.parse_call(call, "config.objective")(prediction, target)


def test_smooth_l1():
    """Huber's loss over beta: both pieces and their slopes meet at beta."""
    distance = np.float32([0.0, 0.5, 1.999, 2.001, -5.0])
    found = objective("smooth_l1(beta=2.0)", distance[None, :, None], np.zeros((1, 5, 1), "f"))
    expected = [0, 0.0625, 1.999**2 / 4, 1.001, 4.0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_cosine():
    """Twice one minus the cosine, whatever the lengths; finite, with its gradient, at length 0."""
    prediction, target = draw(5), draw(5, seed=1)
    prediction, target = (np.stack(x).reshape(2, 3, 5) for x in (prediction, target))
    lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(target, axis=-1)
    expected = 2 - 2 * (prediction * target).sum(axis=-1) / lengths
    found = objective("cosine", prediction, 100 * target)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    zero = jnp.zeros((1, 1, 5))
    loss = jax.value_and_grad(lambda x: objective("cosine", x, target[:1, :1]).sum())
    value, slope = loss(zero)
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)
    assert np.isfinite(slope).all()


def test_info_nce():
    """Cross-entropy over the hidden patches of the same image alone."""
    prediction, target = (np.stack(draw(6, seed)).reshape(2, 3, 6) for seed in (0, 1))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (prediction, target)]
    cosines = np.exp(np.einsum("bid,bjd->bij", *unit) / 0.5)
    share = np.einsum("bii->bi", cosines) / cosines.sum(axis=-1)
    found = objective("info_nce(temperature=0.5)", prediction, target)
    np.testing.assert_allclose(found, -np.log(share), rtol=1e-5)
    alone = objective("info_nce(temperature=0.5)", prediction[:1], target[:1])
    np.testing.assert_allclose(alone, found[:1], rtol=1e-6)
