"""Probes: classifiers of frozen features, a whole sweep of settings trained at once.

Every setting (a learning rate and a weight decay) has its own parameters, stacked along a leading
axis S. All have the same initialisation and batches, so a setting in a sweep gives the same result
as alone. The features are read and normalised once, and multiplied with all heads in one matrix
product.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from hpm_jax.config import ConfigError
from hpm_jax.evaluation.heads import Head, Params

BATCH_NORM_EPS = 1e-6
BATCH_NORM_MOMENTUM = 0.1  # weight of a batch in the running statistics: PyTorch's default


class Sweep(NamedTuple):
    """A grid of S settings."""

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = (0.0,)

    @property
    def settings(self) -> list[tuple[float, float]]:
        """All S pairs (learning rate, weight decay)."""
        return list(itertools.product(self.learning_rates, self.weight_decays))


@flax.struct.dataclass
class ProbeState:
    """The state of a sweep of probes."""

    step: Array  # int32 scalar: number of steps taken
    params: Params  # float32, each [S, ...]
    optimizer: optax.OptState  # each [S, ...]
    mean: Array  # [D] float32: running statistics of the features
    variance: Array  # [D] float32, unbiased


def _kernels(params: Params) -> Params:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def sgd(decay: Array | float, momentum: float) -> optax.GradientTransformation:
    """Builds PyTorch's SGD: weight decay is added to the gradient of every parameter."""
    return optax.chain(optax.add_decayed_weights(decay), optax.trace(momentum))


def lars(decay: Array | float, momentum: float) -> optax.GradientTransformation:
    """Builds MAE's LARS (util/lars.py): decay and trust ratio for kernels only.

    Unlike in `optax.lars`, the learning rate is not part of the momentum.
    """
    scaled = optax.chain(
        optax.add_decayed_weights(decay), optax.scale_by_trust_ratio(trust_coefficient=0.001)
    )
    return optax.chain(optax.masked(scaled, _kernels), optax.trace(momentum))


def adamw(decay: Array | float, momentum: float) -> optax.GradientTransformation:
    """Builds AdamW with b1 = momentum and decoupled weight decay of kernels only."""
    return optax.chain(optax.scale_by_adam(momentum), optax.add_decayed_weights(decay, _kernels))


# For one setting, without its learning rate, which the step multiplies in.
OPTIMIZERS: dict[str, Callable[[Array | float, float], optax.GradientTransformation]] = {
    "sgd": sgd,
    "lars": lars,
    "adamw": adamw,
}


def init_probe(
    head: Head,
    sweep: Sweep,
    optimizer_name: str,
    shape: tuple[int, ...],
    classes: int,
    key: Array,
) -> ProbeState:
    """Returns an initial state for features of `shape` each: `(D,)`, or `(N, D)` for tokens."""
    if optimizer_name not in OPTIMIZERS:
        raise ConfigError(
            f"optimizer {optimizer_name!r} does not exist: choose from {', '.join(OPTIMIZERS)}"
        )
    params = head.init(key, shape, classes)
    settings = len(sweep.settings)
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (settings, *x.shape)), params)
    return ProbeState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=jax.vmap(OPTIMIZERS[optimizer_name](0.0, 0.0).init)(params),
        mean=jnp.zeros(shape[-1:]),
        variance=jnp.ones(shape[-1:]),
    )


def normalized(features: Array, mean: Array, variance: Array) -> Array:
    """Applies batch norm without scale and bias."""
    return (features.astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + BATCH_NORM_EPS)


def is_correct(logits: Array, labels: Array) -> Array:
    """Returns 1.0 if the largest logit of `[B, C]` is the label's; non-finite logits are wrong."""
    finite = jnp.isfinite(logits).all(axis=-1)
    return (finite & (jnp.argmax(logits, axis=-1) == labels)).astype(jnp.float32)


def make_probe_step(
    head: Head, sweep: Sweep, optimizer_name: str, momentum: float = 0.9
) -> Callable[[ProbeState, Array, Array, Array], tuple[ProbeState, dict[str, Array]]]:
    """Builds the step: `(state, features, labels, factor) -> (state, metrics)`.

    Args:
        momentum: momentum of sgd and lars; b1 of adamw.

    The step is pure. It takes features `[B, ...]` of any float type, labels `[B]` int32 and the
    schedule's `factor`, a float32 scalar that multiplies every learning rate. Its metrics are those
    of the batch: "loss" `[S]` and "accuracy" `[S]`, float32. A batch may be sharded; its statistics
    are those of the whole batch.
    """
    rates, decays = np.asarray(sweep.settings, np.float32).T

    def train_one(params, optimizer_state, rate, decay, features, labels):
        """Trains one setting; the features are not mapped, so all settings share them."""

        def loss_of(params):
            logits = head.apply(params, features)
            losses = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))
            return losses.mean(), is_correct(logits, labels).mean()

        (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        optimizer = OPTIMIZERS[optimizer_name](decay, momentum)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = jax.tree.map(lambda p, update: p - rate * update, params, updates)
        return params, optimizer_state, {"loss": loss, "accuracy": accuracy}

    def step(state, features, labels, factor):
        features = features.astype(jnp.float32)
        over = tuple(range(features.ndim - 1))
        mean, variance = features.mean(over), features.var(over)
        params, optimizer, metrics = jax.vmap(train_one, in_axes=(0, 0, 0, 0, None, None))(
            state.params,
            state.optimizer,
            factor * rates,
            jnp.asarray(decays),
            normalized(features, mean, variance),
            labels,
        )
        count = features.size // features.shape[-1]
        unbiased = variance * (count / max(count - 1, 1))
        return ProbeState(
            step=state.step + 1,
            params=params,
            optimizer=optimizer,
            mean=state.mean + BATCH_NORM_MOMENTUM * (mean - state.mean),
            variance=state.variance + BATCH_NORM_MOMENTUM * (unbiased - state.variance),
        ), metrics

    return step


def make_probe_scores(head: Head) -> Callable[[ProbeState, Array, Array, Array], Array]:
    """Builds the count of correct images: `(state, features, labels, weights) -> correct`.

    The result is the sum of the weights `[B]` of the images that each setting classifies correctly,
    `[S]` float32. Weights are 1, or 0 for padding. Features are normalised by the running
    statistics.
    """

    def scores(state, features, labels, weights):
        features = normalized(features, state.mean, state.variance)
        logits = jax.vmap(head.apply, in_axes=(0, None))(state.params, features)
        return (weights * is_correct(logits, labels)).sum(axis=1)

    return scores
