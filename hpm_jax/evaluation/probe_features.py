"""Trains a sweep of probes on features in memory, and chooses the best setting."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax import random
from hpm_jax.config import ConfigError
from hpm_jax.evaluation.checks import check_bank, check_labelled, validation_tenth
from hpm_jax.evaluation.heads import Head, linear
from hpm_jax.evaluation.probes import (
    ProbeState,
    Sweep,
    init_probe,
    make_probe_scores,
    make_probe_step,
)
from hpm_jax.step.schedules import warmup_cosine

# For batches of 1,024 and batch-normalised features. HPM's linear probe (8e-3 at 2,048) and MAE's
# (LARS, 6.4 at 16,384) scale to 4e-3 and 0.4 here.
SWEEPS = {
    "sgd": Sweep((1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0), (0.0, 1e-4)),
    "lars": Sweep((0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), (0.0, 1e-4)),
    "adamw": Sweep((1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (0.0, 1e-2, 1e-1, 1.0)),
}


class ProbeResult(NamedTuple):
    """The result of a sweep; tuples are in the order of `Sweep.settings`."""

    accuracy: float  # of the chosen setting, on the queries
    learning_rate: float  # of the chosen setting
    weight_decay: float  # of the chosen setting
    held_out: tuple[float, ...]  # accuracy on the held-out part of the bank, used for the choice
    queries: tuple[float, ...]  # accuracy on the queries, for information


def probe_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    head: Head = linear,
    optimizer_name: str | None = None,
    sweep: Sweep | None = None,
    epochs: int = 100,
    batch_size: int = 1024,
    warmup_epochs: float = 10,
    seed: int = 0,
) -> ProbeResult:
    """Returns the accuracy on the queries of a head trained on the bank.

    The sweep is trained on nine tenths of the bank, and the setting with the best accuracy on the
    last tenth is reported. The queries are not used for the choice: the best of twenty accuracies
    on the same test images is biased upwards, more so with more settings.

    Args:
        bank: features `[N, D]`, or tokens `[N, tokens, D]`, with labels `[N]` int.
        queries: features `[Q, ...]`, with labels `[Q]` int.
        optimizer_name: one of `OPTIMIZERS`; None for the head's own.
        sweep: None for the optimizer's in `SWEEPS`, which is meant for batches of 1,024.
        seed: random seed of initialisation and order; the held-out tenth is always the same.

    Raises:
        DataError: see `check_bank`.
    """
    classes = check_bank(bank, bank_labels, queries, query_labels)
    optimizer_name = optimizer_name or head.optimizer
    sweep = sweep or SWEEPS[optimizer_name]
    rest, held_out = validation_tenth(len(bank))
    on_device = jnp.asarray(bank), jnp.asarray(bank_labels, jnp.int32)
    state = train_on_features(
        *on_device,
        classes,
        head,
        sweep,
        optimizer_name,
        epochs,
        batch_size,
        warmup_epochs,
        jax.random.key(seed),
        rest,
    )
    everyone = np.arange(len(queries))
    on_held_out = accuracies(state, head, *on_device, held_out, batch_size)
    on_queries = accuracies(state, head, queries, query_labels, everyone, batch_size)
    best = int(np.argmax(on_held_out))
    return ProbeResult(
        float(on_queries[best]),
        *sweep.settings[best],
        tuple(on_held_out.tolist()),
        tuple(on_queries.tolist()),
    )


def train_on_features(
    features: Array,
    labels: Array,
    classes: int,
    head: Head,
    sweep: Sweep,
    optimizer_name: str,
    epochs: int,
    batch_size: int,
    warmup_epochs: float,
    key: Array,
    examples: np.ndarray | None = None,
) -> ProbeState:
    """Trains a sweep on features that fit in memory, with linear warm-up and cosine decay to 0.

    Args:
        features: `[N, D]`, or tokens `[N, tokens, D]`, of any float type.
        labels: `[N]` int, from 0 to `classes` - 1.
        batch_size: limited to the number of examples. An incomplete last batch of an epoch is left
            out; the next epoch has another order.
        key: random key of initialisation and of the order of each epoch.
        examples: indices of the examples to train on; None for all. (The features are not copied,
            as tokens are large.)

    Raises:
        DataError: see `check_labelled`.
        ConfigError: for a warm-up that is not shorter than the training.
    """
    check_labelled(features, labels, "features to train on", classes)
    if not warmup_epochs < epochs:
        raise ConfigError(f"warmup_epochs = {warmup_epochs}: expected fewer than {epochs} epochs")
    features, labels = jnp.asarray(features), jnp.asarray(labels, jnp.int32)
    examples = np.arange(len(features)) if examples is None else examples
    steps = max(1, len(examples) // batch_size)
    init_key = random.stream(key, "init", 0)
    state = init_probe(head, sweep, optimizer_name, features.shape[1:], classes, init_key)
    for epoch in range(epochs):
        times = [epoch + step / steps for step in range(steps)]
        factors = [warmup_cosine(time, 1.0, 0.0, warmup_epochs, epochs) for time in times]
        order = jax.random.permutation(random.stream(key, "order", epoch), jnp.asarray(examples))
        batches = order[: steps * batch_size].reshape(steps, -1)
        state = _train_epoch(
            state,
            features,
            labels,
            batches,
            np.asarray(factors, np.float32),
            head=head,
            sweep=sweep,
            optimizer_name=optimizer_name,
        )
    return state


@functools.partial(
    jax.jit, static_argnames=("head", "sweep", "optimizer_name"), donate_argnames="state"
)
def _train_epoch(state, features, labels, batches, factors, head, sweep, optimizer_name):
    """Runs one step for each of the `batches` `[steps, B]`, which are indices."""
    step = make_probe_step(head, sweep, optimizer_name)

    def take(state, batch_and_factor):
        batch, factor = batch_and_factor
        return step(state, features[batch], labels[batch], factor)

    return jax.lax.scan(take, state, (batches, factors))[0]


def accuracies(
    state: ProbeState,
    head: Head,
    features: Array | np.ndarray,
    labels: Array | np.ndarray,
    examples: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Returns the accuracy of each setting on the `examples` (indices), `[S]`."""
    count, padding = len(examples), -len(examples) % batch_size
    batches = np.pad(np.asarray(examples, np.int32), (0, padding)).reshape(-1, batch_size)
    weights = (np.arange(batches.size) < count).astype(np.float32).reshape(batches.shape)
    labels = jnp.asarray(labels, jnp.int32)
    correct = _score(state, jnp.asarray(features), labels, batches, weights, head)
    return np.asarray(correct, np.float64) / count


@functools.partial(jax.jit, static_argnames="head")
def _score(state, features, labels, batches, weights, head):
    """Sums `make_probe_scores` over all batches `[steps, B]`, which are indices."""
    scores = make_probe_scores(head)

    def score(batch_and_weights):
        batch, weights = batch_and_weights
        return scores(state, features[batch], labels[batch], weights)

    return jax.lax.map(score, (batches, weights)).sum(axis=0)
