"""Probes and their sweeps: against numpy loops, against each other, and on what can be learnt."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.config import ConfigError
from hpm_jax.data.sources import DataError
from hpm_jax.evaluation.heads import Head, attentive, linear
from hpm_jax.evaluation.probe_features import (
    SWEEPS,
    accuracies,
    probe_accuracy,
    train_on_features,
)
from hpm_jax.evaluation.probes import (
    OPTIMIZERS,
    Sweep,
    init_probe,
    make_probe_scores,
    make_probe_step,
)
from hpm_jax.run.devices import all_devices

SWEEP = Sweep((0.05, 0.5, 2.0), (0.0, 0.1))
WIDTH, CLASSES, BATCH = 6, 3, 16


def batches(count, seed=0):
    """Features away from 0, and labels that they tell."""
    rng = np.random.default_rng(seed)
    features = rng.normal(2.0, 3.0, (count, BATCH, WIDTH)).astype(np.float32)
    return features, features[..., :CLASSES].argmax(axis=-1).astype(np.int32)


@functools.cache
def compiled(head, sweep, optimizer_name, momentum):
    """The step of a probe, compiled once for all tests."""
    return jax.jit(make_probe_step(head, sweep, optimizer_name, momentum))


def run(head, sweep, optimizer_name, features, labels, factors=None, momentum=0.9):
    """The state and the metrics after one step a batch."""
    key, shape = jax.random.key(0), features[0].shape[1:]
    state = init_probe(head, sweep, optimizer_name, shape, CLASSES, key)
    step = compiled(head, sweep, optimizer_name, momentum)
    factors = np.ones(len(features), np.float32) if factors is None else factors
    for batch, answers, factor in zip(features, labels, factors, strict=True):
        state, metrics = step(state, batch, answers, factor)
    return state, metrics


class NumpyProbe:
    """One linear setting in float64: the published formulas, one after the other."""

    def __init__(self, optimizer_name, rate, decay, momentum=0.9):
        self.rule = getattr(self, optimizer_name)
        self.rate, self.decay, self.momentum = rate, decay, momentum
        fresh = init_probe(linear, Sweep((1.0,)), "sgd", (WIDTH,), CLASSES, jax.random.key(0))
        self.params = {name: np.array(x[0], np.float64) for name, x in fresh.params.items()}
        self.buffers = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.squares = {name: np.zeros_like(x) for name, x in self.params.items()}
        self.steps = 0

    def step(self, features, labels, factor):
        self.steps += 1
        x = features.astype(np.float64)
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)
        logits = x @ self.params["kernel"] + self.params["bias"]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        rows = np.arange(len(x))
        self.loss = -np.log(shares[rows, labels]).mean()
        self.accuracy = (logits.argmax(axis=1) == labels).mean()
        shares[rows, labels] -= 1
        gradients = {"kernel": x.T @ shares / len(x), "bias": shares.mean(axis=0)}
        for name, gradient in gradients.items():
            self.params[name] = self.rule(name, self.params[name], gradient, factor * self.rate)

    def sgd(self, name, p, g, rate):
        self.buffers[name] = self.momentum * self.buffers[name] + g + self.decay * p
        return p - rate * self.buffers[name]

    def lars(self, name, p, g, rate):
        if p.ndim > 1:
            g = g + self.decay * p
            norms = np.linalg.norm(p), np.linalg.norm(g)
            g = g * (0.001 * norms[0] / norms[1] if min(norms) > 0 else 1.0)
        self.buffers[name] = self.momentum * self.buffers[name] + g
        return p - rate * self.buffers[name]

    def adamw(self, name, p, g, rate):
        b1, b2 = self.momentum, 0.999
        self.buffers[name] = b1 * self.buffers[name] + (1 - b1) * g
        self.squares[name] = b2 * self.squares[name] + (1 - b2) * g * g
        first = self.buffers[name] / (1 - b1**self.steps)
        second = self.squares[name] / (1 - b2**self.steps)
        decay = self.decay if p.ndim > 1 else 0.0
        return p - rate * (first / (np.sqrt(second) + 1e-8) + decay * p)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_each_setting_is_the_published_formula(optimizer_name):
    """Six settings at once, three steps, a schedule that moves: six numpy loops."""
    features, labels = batches(3)
    factors = np.array([0.5, 1.0, 0.25], np.float32)
    state, metrics = run(linear, SWEEP, optimizer_name, features, labels, factors, momentum=0.8)
    assert state.step == 3 and len(SWEEP.settings) == 6
    for index, (rate, decay) in enumerate(SWEEP.settings):
        probe = NumpyProbe(optimizer_name, rate, decay, momentum=0.8)
        for batch in zip(features, labels, factors, strict=True):
            probe.step(*batch)
        for name, expected in probe.params.items():
            actual = state.params[name][index]
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(metrics["loss"][index], probe.loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["accuracy"][index], probe.accuracy, rtol=1e-6)


def test_lars_of_a_kernel_that_is_zero():
    """There is no ratio of norms then: the plain gradient, per setting."""
    settings = {"kernel": jnp.array([[[0.0, 0.0]], [[3.0, 4.0]]])}
    gradients = {"kernel": jnp.array([[[1.0, 2.0]], [[0.0, 2.0]]])}
    optimizer = OPTIMIZERS["lars"](0.0, 0.9)
    update = jax.vmap(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
    expected = [[[1.0, 2.0]], [[0.0, 0.005]]]
    np.testing.assert_allclose(update(gradients, settings)["kernel"], expected, rtol=1e-6)


of_mean_token = Head(
    lambda key, shape, classes: linear.init(key, shape[1:], classes),
    lambda params, tokens: linear.apply(params, tokens.mean(axis=1)),
    "sgd",
)


@pytest.mark.parametrize("shape", [(WIDTH,), (5, WIDTH)])
def test_running_statistics_are_pytorchs(shape):
    """Over all axes but the last; momentum 0.1, the variance unbiased."""
    features = np.random.default_rng(0).normal(2.0, 3.0, (3, BATCH, *shape)).astype(np.float32)
    labels = np.zeros((3, BATCH), np.int32)
    head = linear if len(shape) == 1 else of_mean_token
    state, _ = run(head, Sweep((0.1,)), "sgd", features, labels)
    mean, variance = np.zeros(WIDTH), np.ones(WIDTH)
    for batch in features.reshape(3, -1, WIDTH):
        mean = 0.9 * mean + 0.1 * batch.mean(axis=0)
        variance = 0.9 * variance + 0.1 * batch.var(axis=0, ddof=1)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-5)


@pytest.mark.parametrize("head", [linear, attentive(2)], ids=["linear", "attentive"])
def test_a_setting_in_a_sweep_learns_what_it_learns_alone(head):
    features, labels = batches(2)
    if head is not linear:
        features = np.stack([features, features[::-1]], axis=2)
    sweep = Sweep((1e-3, 1e-2), (0.0, 0.5))
    state, metrics = run(head, sweep, head.optimizer, features, labels)
    alone, measured = run(head, Sweep((1e-2,), (0.5,)), head.optimizer, features, labels)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[3:], state.params), alone.params, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(metrics["loss"][3:], measured["loss"], rtol=1e-5)


def test_a_sharded_batch_gives_the_same():
    """Eight devices with two images each, whose means differ: the statistics are those of all."""
    devices = all_devices()
    assert devices.count == 8
    features, labels = batches(2)
    features += np.arange(BATCH, dtype=np.float32)[:, None]
    state, metrics = run(linear, SWEEP, "sgd", features, labels)
    sharded = [[jax.device_put(batch, devices.batch) for batch in x] for x in (features, labels)]
    state_of_eight, metrics_of_eight = run(linear, SWEEP, "sgd", *sharded)
    chex.assert_trees_all_close(state_of_eight, state, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics_of_eight, metrics, rtol=1e-5)
    assert len(state_of_eight.mean.sharding.device_set) == 8


def test_scores_count_by_weight_and_use_the_running_statistics():
    features, labels = batches(2)
    state, _ = run(linear, SWEEP, "sgd", features, labels)
    weights = (np.arange(BATCH) < 11).astype(np.float32)
    correct = jax.jit(make_probe_scores(linear))(state, features[0], labels[0], weights)
    x = (features[0] - np.asarray(state.mean)) / np.sqrt(np.asarray(state.variance) + 1e-6)
    for index, count in enumerate(np.asarray(correct)):
        params = {name: np.asarray(values[index]) for name, values in state.params.items()}
        logits = x @ params["kernel"] + params["bias"]
        assert count == (np.argmax(logits, axis=1) == labels[0])[:11].sum()
    assert 0 < correct.min() <= correct.max() <= 11 and correct.max() != correct.min()


def test_accuracies_count_every_example_once():
    """37 examples in batches of 16; one of them is named twice, and counts twice."""
    features, labels = batches(4)
    state, _ = run(linear, SWEEP, "sgd", features, labels)
    features, labels = features.reshape(-1, WIDTH), labels.reshape(-1)
    examples = np.array([*range(20, 56), 20])
    scores = make_probe_scores(linear)
    everyone = np.ones(len(examples), np.float32)
    expected = np.asarray(scores(state, features[examples], labels[examples], everyone)) / 37
    actual = accuracies(state, linear, features, labels, examples, batch_size=16)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert 0.2 < actual.min() < 0.9


def test_what_is_held_out_is_not_trained_on():
    """Labels at random: with 150 features, 180 images can be learnt by heart."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(200, 150)).astype(np.float32), rng.integers(0, 2, 200)
    options = {"sweep": Sweep((0.5,)), "epochs": 20, "batch_size": 32, "warmup_epochs": 1}
    result = probe_accuracy(features, labels, features, labels, **options)
    assert result.held_out[0] < 0.75 < 0.85 < result.accuracy


def one_token_of_many(count, seed, tokens=8):
    """One token of each image carries its class and a mark; the others are larger, and noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    features = rng.normal(size=(count, tokens, 8)).astype(np.float32)
    features[..., 6:] = 0
    where = rng.integers(0, tokens, count)
    features[np.arange(count), where, :CLASSES] = 2 * np.eye(CLASSES)[labels]
    features[np.arange(count), where, 7] = 1
    return features, labels


def test_a_linear_problem_is_learnt_and_the_queries_choose_nothing():
    rng = np.random.default_rng(0)
    features = rng.normal(5.0, 3.0, (700, WIDTH)).astype(np.float32)
    labels = features[:, :CLASSES].argmax(axis=1)

    def probe(query_labels):
        return probe_accuracy(
            features[:500],
            labels[:500],
            features[500:],
            query_labels,
            sweep=Sweep((0.5, 1e-5, 1e30), (1e-4,)),
            epochs=10,
            batch_size=64,
            warmup_epochs=1,
        )

    result, wrong = probe(labels[500:]), probe((labels[500:] + 1) % CLASSES)
    assert result.accuracy == result.queries[0] > 0.92
    assert (result.learning_rate, result.weight_decay) == (0.5, 1e-4)
    assert np.argmax(result.held_out) == 0 and len(result.held_out) == 3
    assert wrong.held_out == result.held_out and wrong.learning_rate == 0.5
    assert wrong.accuracy == wrong.queries[0] < 0.1 < wrong.queries[1]


def test_an_attentive_problem_is_learnt():
    """Which the mean of the tokens, and so a linear probe of it, tells much worse."""
    bank, bank_labels = one_token_of_many(600, 0)
    queries, labels = one_token_of_many(300, 1)
    options = {"epochs": 10, "batch_size": 64, "warmup_epochs": 1}
    result = probe_accuracy(
        bank, bank_labels, queries, labels, attentive(1), sweep=Sweep((3e-2,)), **options
    )
    pooled = probe_accuracy(
        bank, bank_labels, queries, labels, of_mean_token, sweep=Sweep((0.3,)), **options
    )
    assert result.accuracy > 0.95 and pooled.accuracy < 0.85


def test_a_setting_that_diverges_is_never_chosen():
    """Nearly all labels are 0, which is what NaN logits would seem to say."""
    features, labels = (np.repeat(x, 4, axis=0) for x in batches(1))
    labels = np.where(np.arange(BATCH) == 0, 1, np.zeros_like(labels))
    state, metrics = run(linear, Sweep((1e30, 0.1), (1e-2,)), "sgd", features, labels)
    assert not np.isfinite(state.params["kernel"][0]).all()
    assert np.isfinite(state.params["kernel"][1]).all(), "a setting spoils its neighbours"
    assert metrics["accuracy"][0] == 0 and metrics["accuracy"][1] > 0.9
    actual = accuracies(state, linear, features[0], labels[0], np.arange(BATCH), BATCH)
    assert actual[0] == 0 and actual[1] > 0.9


def train(seed=0, examples=None, epochs=2, batch_size=20, features=None):
    """A sweep on 64 images, or on others of these labels, without warm-up."""
    images, labels = (x.reshape(64, *x.shape[2:]) for x in batches(4))
    features = images if features is None else features
    key = jax.random.key(seed)
    return train_on_features(
        features, labels, CLASSES, linear, SWEEP, "sgd", epochs, batch_size, 0, key, examples
    )


def test_training_is_a_function_of_its_key():
    first, again, other = train(), train(), train(seed=1)
    chex.assert_trees_all_equal(first, again)
    assert first.step == 2 * (64 // 20)
    assert not np.allclose(first.params["kernel"], other.params["kernel"])
    assert not np.allclose(first.mean, other.mean), "the same order for every key"


def test_every_epoch_has_an_order_of_its_own():
    """A batch of 60 leaves out four of 64 images: others in each epoch, by the mean of the rest."""
    one, two = (np.asarray(train(epochs=count, batch_size=60).mean) for count in (1, 2))
    first, second = one / 0.1, (two - 0.9 * one) / 0.1
    assert np.abs(second - first).max() > 0.02
    np.testing.assert_allclose(second, first, atol=1.0)


def test_only_the_examples_are_trained_on():
    features = batches(4)[0].reshape(-1, WIDTH)
    kept = np.arange(64) % 3 > 0
    without = features.copy()
    without[~kept] = 1e6
    chex.assert_trees_all_equal(
        train(examples=np.flatnonzero(kept)),
        train(examples=np.flatnonzero(kept), features=without),
    )
    assert train(examples=np.flatnonzero(kept), batch_size=1000).step == 2


def test_the_schedule_warms_up_and_ends_at_zero():
    """By hand, over the batches of one image that is always the same: order plays no part."""
    features = np.repeat(batches(1)[0][0, :1], 8, axis=0)
    labels = np.ones(8, np.int32)
    state = train_on_features(
        features, labels, CLASSES, linear, Sweep((2.0,)), "sgd", 4, 4, 2, jax.random.key(0)
    )
    bias, buffer = np.zeros(CLASSES), np.zeros(CLASSES)
    for step in range(8):
        epoch = step / 2
        factor = epoch / 2 if epoch < 2 else 0.5 * (1 + np.cos(np.pi * (epoch - 2) / 2))
        shares = np.exp(bias) / np.exp(bias).sum()  # the normalised features are 0
        buffer = 0.9 * buffer + shares - np.eye(CLASSES)[1]
        bias = bias - factor * 2.0 * buffer
    np.testing.assert_allclose(state.params["bias"][0], bias, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_trained():
    features, labels = batches(1)
    features, labels = features[0], labels[0]
    with pytest.raises(DataError, match="labels go from 0 to 2: expected 0 to 1"):
        train_on_features(features, labels, 2, linear, SWEEP, "sgd", 2, 4, 1, jax.random.key(0))
    with pytest.raises(ConfigError, match="warmup_epochs = 2: expected fewer than 2"):
        train_on_features(features, labels, 3, linear, SWEEP, "sgd", 2, 4, 2, jax.random.key(0))
    with pytest.raises(DataError, match="all 16 labels are 1"):
        probe_accuracy(features, np.ones(BATCH, int), features, labels)


def test_the_usual_sweeps_are_of_twenty():
    assert set(SWEEPS) == set(OPTIMIZERS)
    assert all(len(set(sweep.settings)) == 20 for sweep in SWEEPS.values())
