"""Masks by the teacher's attention and by clusters of its features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from small_masks import context, strategy, uniform_chance, visible

from hpm_jax.masking.attention import normalized_cut, object_side


def seen(batch, n_hard=None, grid=(1, 4, 4), **readings):
    readings = {name: jnp.asarray(value, jnp.float32) for name, value in readings.items()}
    made = context(batch, grid, readings={"teacher": readings})
    return made._replace(n_hard=jnp.int32(made.hidden if n_hard is None else n_hard))


@pytest.mark.parametrize("grid", [(1, 4, 4), (2, 2, 4)])
@pytest.mark.parametrize("high", [True, False])
def test_attention_takes_the_extremes(high, grid):
    attention = np.random.default_rng(0).dirichlet(np.ones(16), size=5)
    made = seen(5, grid=grid, attention=attention)
    shown = visible(f"attention(high={high})", made).reshape(5, 16)
    order = np.argsort(attention, axis=1)
    for row, kept in zip(shown, order[:, :4] if high else order[:, -4:], strict=True):
        assert row[kept].all()


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_rest_is_random(noise):
    """With no hard units masks are uniform, whatever the attention."""
    attention = np.tile(np.random.default_rng(0).dirichlet(np.ones(16)), (3000, 1))
    shown = visible(f"attention(noise={noise})", seen(3000, 0, attention=attention))
    assert uniform_chance(shown, 0.25)


def sampled(rng, weights, count, draws):
    """How often each unit is among `count` drawn one after the other, in proportion."""
    chosen = [rng.choice(len(weights), count, replace=False, p=weights) for _ in range(draws)]
    return np.bincount(np.ravel(chosen), minlength=len(weights)) / draws


@pytest.mark.parametrize("high", [True, False])
def test_sampling_in_proportion(high):
    """Low attention is hidden by drawing what stays, high attention by drawing what is hidden."""
    draws, weights = 5000, np.random.default_rng(0).dirichlet(np.ones(16))
    made = seen(draws, attention=np.tile(weights, (draws, 1)))
    share = visible(f"attention(high={high}, noise=1.0)", made).reshape(draws, 16).mean(axis=0)
    share = 1 - share if high else share
    expected = sampled(np.random.default_rng(1), weights, 12 if high else 4, draws)
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(2 * 0.25 / draws))


def test_nothing_is_marked_where_units_are_drawn():
    made = seen(2, attention=np.random.default_rng(0).dirichlet(np.ones(16), size=2))
    assert not strategy("attention(noise=1.0)").hard(made).any()
    assert (strategy("attention").hard(made).sum(axis=1) == made.hidden).all()


def clusters(batch, units=36, width=16, spread=0.5, seed=0):
    """Features of two clusters, the object in a third of the units, in random places."""
    rng = np.random.default_rng(seed)
    member = np.argsort(rng.random((batch, units)), axis=1) < units // 3
    centres = rng.normal(size=(batch, 2, width)) + 0.7
    features = np.where(member[..., None], centres[:, :1], centres[:, 1:])
    features = features + spread * rng.normal(size=features.shape)
    return (features * rng.uniform(0.5, 2, (batch, units, 1))).astype(np.float32), member


def relevance(features):
    """Of one image, by a dense generalised eigensolver."""
    features = features.astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    affinity = np.maximum(features @ features.T, 0)
    degree = np.diag(affinity.sum(axis=1))
    cut = scipy.linalg.eigh(degree - affinity, degree)[1][:, 1]
    cut = cut * np.sign(cut[np.abs(cut).argmax()])
    side = cut >= cut.mean()
    return cut, (features @ features[side].T).mean(axis=1)


def test_power_iteration_finds_the_normalised_cut():
    features, _ = clusters(8)
    made = seen(8, grid=(1, 6, 6), features=features)
    found = np.asarray(strategy("self_guided").difficulty(made))
    unit = features / np.linalg.norm(features, axis=2, keepdims=True)
    cuts = np.asarray(normalized_cut(jnp.asarray(unit), 50))
    for image in range(8):
        cut, expected = relevance(features[image])
        cosine = cuts[image] @ cut / np.linalg.norm(cuts[image]) / np.linalg.norm(cut)
        assert abs(cosine) > 0.999
        np.testing.assert_allclose(found[image], expected, atol=1e-3)


def test_planted_clusters_are_found():
    features, member = clusters(20)
    unit = features / np.linalg.norm(features, axis=2, keepdims=True)
    side = np.asarray(object_side(normalized_cut(jnp.asarray(unit), 50)))
    assert ((side == member).all(axis=1) | (side != member).all(axis=1)).mean() > 0.9
    shown = visible("self_guided", seen(20, grid=(1, 6, 6), features=features)).reshape(20, 36)
    for object_, kept in zip(side, shown, strict=True):  # 27 are hidden: all of the object first
        assert not kept[object_].any() or object_.sum() > 27


def test_invariances():
    """Scale of a unit, rotation of the features, and order of the units do not matter."""
    rng = np.random.default_rng(5)
    features, _ = clusters(4)
    plug = strategy("self_guided(iterations=200)")

    def difficulty(features):
        return np.asarray(plug.difficulty(seen(4, grid=(1, 6, 6), features=features)))

    expected = difficulty(features)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    order = rng.permutation(36)
    np.testing.assert_allclose(difficulty(3 * features), expected, atol=1e-3)
    np.testing.assert_allclose(difficulty(features @ rotation), expected, atol=1e-3)
    np.testing.assert_allclose(difficulty(features[:, order]), expected[:, order], atol=1e-3)


@pytest.mark.parametrize("features", [np.zeros((2, 16, 4)), np.ones((2, 16, 4))])
def test_features_that_are_all_alike(features):
    """As before training: no cut, and still a mask."""
    scores = strategy("self_guided").scores(jax.random.key(0), seen(2, features=features))
    assert np.isfinite(np.asarray(scores)).all()


def test_defaults_of_the_share():
    attention, guided = strategy("attention"), strategy("self_guided")
    assert [attention.n_hard(epoch, 100, 147) for epoch in (0, 99)] == [147, 147]
    assert [guided.n_hard(epoch, 100, 147) for epoch in (0, 49, 99)] == [1, 73, 147]
