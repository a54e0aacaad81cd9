"""Means over pairs of patches against double loops in float64: values, gradients, memory."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.losses.pairs import (
    BLOCK,
    all_pairs,
    every_pair,
    pairs_in_blocks,
    pairs_of_tubes,
    some_pairs,
)
from hpm_jax.losses.ranking import pairs_ranked_correctly, relative

# around the size of a block, whole blocks of distances, both parities, and the smallest there are
COUNTS = (2, 3, 7, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 2, 75)


def draw(count, batch=2, seed=0):
    return np.random.default_rng(seed).normal(scale=2.0, size=(2, batch, count)).astype(np.float32)


def pair_by_pair(predicted, loss):
    """The relative loss, its gradient, and the share of pairs in the right order."""
    predicted, loss = np.asarray(predicted, np.float64), np.asarray(loss, np.float64)
    cost, right, pairs, slope = 0.0, 0, 0, np.zeros_like(predicted)
    for row, (p, t) in enumerate(zip(predicted, loss, strict=True)):
        for i, j in itertools.combinations(range(len(p)), 2):
            if t[i] == t[j]:
                continue
            hard, easy = (i, j) if t[i] > t[j] else (j, i)
            sigmoid = 1 / (1 + np.exp(p[easy] - p[hard]))
            change = -sigmoid * (1 - sigmoid) / (sigmoid + 1e-6)
            cost -= np.log(sigmoid + 1e-6)
            slope[row, hard] += change
            slope[row, easy] -= change
            right += p[hard] > p[easy]
            pairs += 1
    return cost / pairs, slope / pairs, right / pairs


@functools.cache
def measured(pairs):
    """`(predicted, loss)` to the relative loss, its gradient, and the metric, compiled."""

    def measure(predicted, loss):
        cost = jax.value_and_grad(functools.partial(relative, pairs=pairs))(predicted, loss)
        return *cost, pairs_ranked_correctly(predicted, loss, pairs)

    return jax.jit(measure)


def assert_measures(pairs, predicted, loss, cost, slope, right):
    found = measured(pairs)(predicted, loss)
    np.testing.assert_allclose(found[0], cost, rtol=1e-5)
    np.testing.assert_allclose(found[1], slope, rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(found[2], right, rtol=1e-6)


@pytest.mark.parametrize(
    ("pairs", "count"),
    [(every_pair, count) for count in (2, 3, 27, 28)]
    + [(pairs_in_blocks, count) for count in COUNTS],
)
def test_every_pair_once(pairs, count):
    predicted, loss = draw(count, seed=count)
    assert_measures(pairs, predicted, loss, *pair_by_pair(predicted, loss))
    tied = np.round(loss)
    tied[:, 0] += 5.0  # some pair has to count
    assert_measures(pairs, predicted, tied, *pair_by_pair(predicted, tied))
    cost, slope, _ = measured(pairs)(predicted, np.ones_like(loss))
    assert cost == 0 and not slope.any(), "ties cost nothing"


def compared(pairs, count):
    """How often each pair of columns is compared, `{(i, j): times}`."""
    found = []

    def terms(predicted, loss):
        found.extend(np.asarray(predicted).ravel())
        return predicted, jnp.ones_like(predicted)

    # differences of powers of two tell which two they are of
    codes = 2.0 ** np.arange(count)
    pairs(terms, jnp.asarray(codes[None], jnp.float32), jnp.zeros((1, count)))
    whose = {codes[j] - codes[i]: (i, j) for i, j in itertools.combinations(range(count), 2)}
    times = dict.fromkeys(whose.values(), 0)
    for difference in found:
        times[whose[abs(float(difference))]] += 1
    return times


@pytest.mark.parametrize("count", [2, 3, 4, 11, 12])
def test_no_pair_is_compared_twice(count):
    assert set(compared(every_pair, count).values()) == {1}
    sampled = compared(some_pairs(3), count)
    assert set(sampled.values()) <= {0, 1}


@pytest.mark.parametrize("count", [7, 11, 12, 20])
def test_every_patch_is_sampled_as_often_as_any_other(count):
    """In `distances` pairs with those before it on the circle, and as many with those after it."""
    times = compared(some_pairs(3), count)
    assert sum(times.values()) == 3 * count
    of_patch = [sum(n for pair, n in times.items() if i in pair) for i in range(count)]
    assert set(of_patch) == {6}


def test_more_distances_than_there_are_give_every_pair():
    predicted, loss = draw(9)
    both = [relative(predicted, loss, pairs) for pairs in (every_pair, some_pairs(100))]
    np.testing.assert_allclose(*both, rtol=1e-6)


def test_sampled_pairs_mean_all_pairs_and_more_of_them_spread_less():
    """Over random orders, as the training step draws them."""
    predicted, loss = draw(40, batch=1)
    expected, _, right = pair_by_pair(predicted, loss)
    orders = random_orders(40)

    @functools.partial(jax.jit, static_argnums=0)
    def sample(distances):
        def of(order):
            shuffled = jnp.asarray(predicted)[:, order], jnp.asarray(loss)[:, order]
            pairs = some_pairs(distances)
            return relative(*shuffled, pairs), pairs_ranked_correctly(*shuffled, pairs)

        return jax.vmap(of)(orders)

    spread = []
    for distances in (1, 4):
        for values, mean in zip(sample(distances), (expected, right), strict=True):
            error = np.asarray(values).std() / np.sqrt(len(orders))
            assert abs(np.asarray(values, np.float64).mean() - mean) < 4 * error
        spread.append(np.asarray(sample(distances)[0]).std())
    assert spread[1] < 0.7 * spread[0]


def random_orders(count):
    return np.random.default_rng(1).permuted(np.tile(np.arange(count), (4000, 1)), axis=1)


def test_sampled_pairs_teach_as_all_pairs_do():
    """The mean gradient, too: what trains the predictor is unbiased."""
    predicted, loss = draw(12, batch=1)
    _, expected, _ = pair_by_pair(predicted, loss)
    orders = random_orders(12)

    def cost(predicted, order):
        return relative(predicted[:, order], jnp.asarray(loss)[:, order], some_pairs(2))

    slopes = jax.jit(jax.vmap(jax.grad(cost), (None, 0)))(jnp.asarray(predicted), orders)
    error = np.asarray(slopes).std(axis=0) / np.sqrt(len(orders))
    assert (np.abs(slopes.mean(axis=0) - expected) < 4.5 * error).all()


def test_tubes_are_ranked_by_their_means():
    frames, tubes = 4, 11
    predicted, loss = draw(frames * tubes)
    means = [x.reshape(2, frames, tubes).astype(np.float64).mean(axis=1) for x in (predicted, loss)]
    cost, slope, right = pair_by_pair(*means)
    # each patch of a tube has its share of the tube's slope
    slope = np.tile(slope, frames) / frames
    assert_measures(pairs_of_tubes(frames), predicted, loss, cost, slope, right)


def some_of(count, batch=2):
    """Patches that count: about half of the first image, all but one or two of the second."""
    rng = np.random.default_rng(count)
    counted = np.zeros((batch, count), bool)
    for row, counts in zip(counted, (max(count // 2, 2), max(count - 2, 2)), strict=True):
        row[rng.permutation(count)[:counts]] = True
    return counted


@functools.cache
def measured_of_some(pairs):
    """`(predicted, loss, counted)` to the same three of the patches that count, compiled."""

    def measure(predicted, loss, counted):
        of_some = functools.partial(relative, pairs=pairs, counted=counted)
        cost, slope = jax.value_and_grad(of_some)(predicted, loss)
        return cost, slope, pairs_ranked_correctly(predicted, loss, pairs, counted)

    return jax.jit(measure)


def assert_some(found, predicted, loss, whose):
    """As over the pairs `whose` of each image, of float64 losses."""
    cost, right, slope = [], [], np.zeros_like(predicted)
    for row, (p, t) in enumerate(zip(predicted, loss, strict=True)):
        for i, j in whose[row]:
            above = (p[i] - p[j]) * np.sign(t[i] - t[j])
            sigmoid = 1 / (1 + np.exp(-above))
            change = -sigmoid * (1 - sigmoid) / (sigmoid + 1e-6) * np.sign(t[i] - t[j])
            cost.append(-np.log(sigmoid + 1e-6))
            right.append(above > 0)
            slope[row, i] += change
            slope[row, j] -= change
    np.testing.assert_allclose(found[0], np.mean(cost), rtol=1e-5)
    np.testing.assert_allclose(found[1], slope / len(cost), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(found[2], np.mean(right), rtol=1e-6)


@pytest.mark.parametrize(
    ("pairs", "count"),
    [(every_pair, count) for count in (3, 27, 28)]
    + [(pairs_in_blocks, count) for count in COUNTS[1:]],
)
def test_every_pair_of_the_patches_that_count(pairs, count):
    predicted, loss = draw(count, seed=count)
    counted = some_of(count)
    found = measured_of_some(pairs)(predicted, loss, counted)
    whose = [list(itertools.combinations(np.flatnonzero(row), 2)) for row in counted]
    assert_some(found, predicted.astype(np.float64), loss.astype(np.float64), whose)
    alone = predicted[1:], loss[1:]
    # one image: the very loss of the others, with the rest left out
    left = [x[:, counted[1]] for x in alone]
    of_some, of_all = (jax.jit(functools.partial(relative, pairs=p)) for p in (pairs, every_pair))
    np.testing.assert_allclose(of_some(*alone, counted=counted[1:]), of_all(*left), rtol=1e-5)


@pytest.mark.parametrize("pairs", [every_pair, pairs_in_blocks, some_pairs(3), pairs_of_tubes(4)])
def test_what_does_not_count_does_not_matter(pairs):
    """Neither its loss nor what is predicted of it; where all count, nothing changes."""
    predicted, loss = draw(44)
    counted = np.tile(some_of(11), 4)
    found = measured_of_some(pairs)(predicted, loss, counted)
    assert found[0] > 0 and not np.asarray(found[1])[~counted].any()
    other = (np.where(counted, x, far) for x, far in ((predicted, 1e3), (loss, -1e3)))
    chex.assert_trees_all_equal(measured_of_some(pairs)(*other, counted), found)
    every = measured_of_some(pairs)(predicted, loss, np.ones_like(counted))
    chex.assert_trees_all_close(every, measured(pairs)(predicted, loss), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("pairs", "frames"),
    [(every_pair, 1), (pairs_in_blocks, 1), (some_pairs(3), 1), (pairs_of_tubes(4), 4)],
)
def test_a_single_one_that_counts_is_not_compared(pairs, frames):
    predicted, loss = draw(44)
    counted = np.tile(np.arange(44 // frames) == 5, (2, frames))
    cost, slope, right = measured_of_some(pairs)(predicted, loss, counted)
    assert cost == 0 and right == 0 and not np.asarray(slope).any()


@pytest.mark.parametrize("distances", [1, 3, 100])
def test_sampled_pairs_of_the_patches_that_count(distances):
    """Of the pairs that are sampled, those of two that count."""
    count = 13
    predicted, loss = draw(count)
    counted = some_of(count)
    found = measured_of_some(some_pairs(distances))(predicted, loss, counted)
    near = [
        (i, (i + d) % count) for i in range(count) for d in range(1, 1 + min(distances, count // 2))
    ]
    whose = [[(i, j) for i, j in near if row[i] and row[j]] for row in counted]
    assert all(whose) and len(whose[0]) < len(near)
    assert_some(found, predicted.astype(np.float64), loss.astype(np.float64), whose)


def test_tubes_that_count_are_ranked_by_their_means():
    """A tube counts in every frame or in none."""
    frames, tubes = 4, 11
    predicted, loss = draw(frames * tubes)
    of_tubes = some_of(tubes)
    counted = np.tile(of_tubes, frames)
    means = [x.reshape(2, frames, tubes).astype(np.float64).mean(axis=1) for x in (predicted, loss)]
    cost, slope, right = measured_of_some(pairs_of_tubes(frames))(predicted, loss, counted)
    each = np.asarray(slope).reshape(2, frames, tubes)
    whose = [list(itertools.combinations(np.flatnonzero(row), 2)) for row in of_tubes]
    assert_some((cost, each.sum(axis=1), right), *means, whose)
    np.testing.assert_allclose(each, each[:, :1].repeat(frames, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    "pairs",
    [pairs_in_blocks, pairs_of_tubes(16), some_pairs(8)],
    ids=["blocks", "tubes", "sampled"],
)
def test_no_array_of_all_pairs(pairs):
    """1,408 hidden patches of VideoMAE: the whole backward pass needs less than one such array."""
    batch, hidden = 4, 1408
    shape = jax.ShapeDtypeStruct((batch, hidden), jnp.float32)
    ranking = jax.jit(jax.value_and_grad(functools.partial(relative, pairs=pairs)))
    temporary = ranking.lower(shape, shape).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 4 * batch * (hidden * (hidden - 1) // 2) / 3


def test_all_pairs_of_many_patches_go_in_blocks():
    """All at once, those of 1,408 patches took 98 s to compile."""
    assert all_pairs(432) is every_pair and all_pairs(1408) is pairs_in_blocks
