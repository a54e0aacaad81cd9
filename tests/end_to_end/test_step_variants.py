"""Variants of the step that claim the same mathematics have the same loss and gradients."""

import jax.numpy as jnp
import jaxtyping
import pytest
from small import parts_of, schedule, small_config

from benchmarks.variants.measure import Bench, compile_step, deviation, outcome_of
from benchmarks.variants.precision import agreement
from benchmarks.variants.table import VARIANTS, Subject


@pytest.fixture(scope="module", autouse=True)
def other_models():
    """The variants' models are no `MaskedAutoencoder`, which the step says that it takes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def bench():
    config = small_config(model={"decoder_depth": 2}, optimizer={"batch_size": 4})
    parts = parts_of(config)
    subject = Subject(parts.model, parts.method)
    return Bench(config, subject, parts.state, parts.images, parts.key, schedule(n_hard=6))


def outcome(bench, name):
    subject = VARIANTS[name].change(bench.subject)
    return outcome_of(bench, subject, compile_step(bench, subject))


@pytest.fixture(scope="module")
def own(bench):
    return outcome(bench, "package")


@pytest.mark.parametrize(
    "name",
    [
        "decoders_at_once",
        "as_before",
        "attention_summed_by_product",
        "ranking_triangle",
        "ranking_whole_matrix",
    ],
)
def test_same_mathematics(bench, own, name):
    assert deviation(own, outcome(bench, name)) < 1e-4


def test_other_mathematics_is_seen(bench, own):
    assert not VARIANTS["gelu_tanh"].same
    assert deviation(own, outcome(bench, "gelu_tanh")) > 1e-4


def test_agreement_counts_the_hardest():
    reference = jnp.float32([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    other = jnp.float32([[4, 0, 1, 2, 3], [0, 1, 2, 4, 3]])
    assert float(agreement(reference, other, 2)) == 0.75
