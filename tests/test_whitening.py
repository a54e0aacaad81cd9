"""Terms that whiten: against plain numpy in float64, and what whitening has to do."""

import jax
import numpy as np
import pytest
from small import MAE, small_config
from test_terms import outputs_of

from hpm_jax.config import ConfigError
from hpm_jax.losses import Term
from hpm_jax.losses.heads import perceptron
from hpm_jax.losses.term import Own
from hpm_jax.losses.whitening import (
    cholesky_whitened,
    distance_of_views,
    groups_of,
    newton_whitened,
    trace_loss,
)
from hpm_jax.tokens import Mask


def correlated(count, width, seed=0):
    """Rows with a mean, whose covariance has eigenvalues of 1 to 9."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width)) * np.linspace(1, 3, width)
    return (rows @ np.linalg.qr(rng.normal(size=(width, width)))[0] + 5).astype(np.float32)


def newton(values, iterations):
    """Newton's iterations in float64."""
    centred = np.float64(values) - np.float64(values).mean(axis=0)
    covariance = np.cov(centred, rowvar=False)
    inverse = np.eye(values.shape[1])
    for _ in range(iterations):
        cube = np.linalg.matrix_power(inverse, 3)
        inverse = 1.5 * inverse - 0.5 * cube @ covariance / np.trace(covariance)
    return centred @ inverse / np.sqrt(np.trace(covariance))


def cholesky(values, shrinkage):
    """The same by a Cholesky factor, in float64."""
    centred = np.float64(values) - np.float64(values).mean(axis=0)
    covariance = (1 - shrinkage) * np.cov(centred, rowvar=False)
    factor = np.linalg.cholesky(covariance + shrinkage * np.eye(values.shape[1]))
    return centred @ np.linalg.inv(factor).T


def pairs(views):
    """The mean squared distance of all pairs of views, of length 1."""
    unit = np.float64(views) / np.linalg.norm(views, axis=-1, keepdims=True)
    numbers = range(len(unit))
    return np.mean(
        [np.square(unit[a] - unit[b]).sum(axis=-1) for a in numbers for b in numbers if a < b]
    )


@pytest.mark.parametrize("iterations", [1, 4, 9])
def test_newton(iterations):
    values = correlated(60, 5)
    found = newton_whitened(values, iterations)
    np.testing.assert_allclose(found, newton(values, iterations), rtol=1e-3, atol=1e-4)


def test_what_whitening_leaves():
    """Many iterations and the Cholesky factor give the identity; then the trace loss is 0."""
    values = correlated(60, 5)
    for whitened in (newton_whitened(values, 30), cholesky_whitened(values, 0.0)):
        np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(5), atol=1e-3)
        np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-4)
        assert trace_loss(whitened) < 1e-5
    few = np.float64(newton_whitened(values, 2))
    expected = np.square(few.var(axis=0, ddof=1) - 1).sum()
    assert expected > 0.1
    np.testing.assert_allclose(trace_loss(few.astype(np.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_cholesky(shrinkage):
    values = correlated(40, 6, seed=1)
    found = cholesky_whitened(values, shrinkage)
    np.testing.assert_allclose(found, cholesky(values, shrinkage), rtol=1e-3, atol=1e-4)


def test_a_collapse_stays_finite_and_costs():
    equal = np.ones((20, 4), np.float32)
    for whiten in (lambda z: newton_whitened(z, 4), lambda z: cholesky_whitened(z, 1e-3)):
        loss, slope = jax.value_and_grad(lambda z, f=whiten: trace_loss(f(z)))(equal)
        assert np.isfinite(slope).all() and loss == 4, "each variance is 0 and not 1"


@pytest.mark.parametrize("views", [2, 3])
def test_distance_of_views(views):
    values = np.random.default_rng(2).normal(size=(views, 7, 4)).astype(np.float32)
    np.testing.assert_allclose(distance_of_views(values), pairs(values), rtol=1e-5)
    assert distance_of_views(values[:1]) == 0
    assert distance_of_views(np.stack([values[0], -values[0]])) == pytest.approx(4)


def outputs(views, images):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(views * images, 5, 16)).astype(np.float32)
    hide = np.tile(np.arange(4, 12, dtype=np.int32), (views * images, 1))
    mask = Mask(np.tile(np.arange(4, dtype=np.int32), (views * images, 1)), hide)
    return outputs_of(features=features, mask=mask, views=views)


def head_of(term):
    return term.init(jax.random.key(0), small_config().setting)  # of the same width, 16


def test_intl():
    """Each view is whitened by its own statistics; rows of an image follow one another."""
    term, found = Term.parse_call("intl(width=8, values=4, trace=0.3)", "x"), outputs(2, 12)
    head = head_of(term)
    values = perceptron(head, found.features[:, 1:].mean(axis=1))
    whitened = np.stack([newton(np.asarray(values)[view::2], 4) for view in (0, 1)])
    traces = [np.square(view.var(axis=0, ddof=1) - 1).sum() for view in whitened]
    loss, others = term(found._replace(own=Own(params=head)))
    np.testing.assert_allclose(others["intl_distance"], pairs(whitened), rtol=1e-3)
    np.testing.assert_allclose(others["intl_trace"], np.mean(traces), rtol=1e-3)
    np.testing.assert_allclose(loss, pairs(whitened) + 0.3 * sum(traces), rtol=1e-3)


def test_w_mse():
    """Images are dealt to groups, in which their views are whitened together."""
    term, found = Term.parse_call("w_mse(width=8, values=3, group=6)", "x"), outputs(2, 12)
    head, drawn = head_of(term), np.asarray(term.draw(jax.random.key(1), found.mask))
    assert drawn.shape == (24,)
    values = np.asarray(perceptron(head, found.features[:, 1:].mean(axis=1)))
    order = np.argsort(drawn[::2])
    losses = []
    for some in (order[:6], order[6:]):
        rows = np.concatenate([values[2 * some], values[2 * some + 1]])
        losses.append(pairs(np.split(cholesky(rows, 1e-3), 2)))
    loss, _ = term(found._replace(own=Own(params=head, drawn=drawn)))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-3)
    one = outputs(1, 5)  # as on held-out images: one mask, and images that fill no group
    alone, _ = term(one._replace(own=Own(params=head, drawn=drawn[:5])))
    assert alone == 0


def test_groups():
    values = np.arange(2 * 6 * 1, dtype=np.float32).reshape(2, 6, 1)
    assert groups_of(values, 3).shape == (2, 2, 3, 1)
    for size in (0, 4):
        assert groups_of(values, size).shape == (2, 1, 6, 1)


TWO = {"strategy": "random", "views": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("intl",)}, r"compares masks of one image, and config.mask.views = 1"),
        ({"losses": ("intl(pool='tokens')",), "mask": TWO}, "compares whole images: pool="),
        ({"losses": ("intl",), "mask": TWO, "optimizer": {"accumulation": 2}}, "cuts it: set it"),
        ({"losses": ("w_mse(group=48)",), "mask": TWO}, "does not divide the 64 images of a batch"),
        ({"losses": ("w_mse(group=64)",), "mask": TWO}, "whitens 64 values by 64 images: .*=32"),
    ],
)  # fmt: skip
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**MAE | changes)
