"""What is measured: against plain formulas."""

import numpy as np
import pytest

from hpm_jax.evaluation.knn import knn_accuracy, knn_predict
from hpm_jax.evaluation.rank_me import rank_me


def test_knn_votes_as_the_formula_says():
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(50, 8)).astype(np.float32)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    labels = rng.integers(0, 4, 50).astype(np.int32)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    similarity = unit(queries) @ unit(bank).T
    expected = []
    for row in similarity:
        votes = np.zeros(4)
        for index in np.argsort(-row)[:7]:
            votes[labels[index]] += np.exp(row[index] / 0.07)
        expected.append(votes.argmax())
    predicted = knn_predict(queries, bank, labels, neighbors=7, classes=4, temperature=0.07)
    np.testing.assert_array_equal(predicted, expected)


def test_knn_counts_every_query_once():
    """1,300 queries are two and a half chunks; a query in the bank finds itself."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1300, 6)).astype(np.float32)
    labels = rng.integers(0, 10, 1300).astype(np.int32)
    assert knn_accuracy(features, labels, features, labels, neighbors=1) == 1.0
    wrong = labels.copy()
    wrong[-100:] = (wrong[-100:] + 1) % 10
    accuracy = knn_accuracy(features, labels, features, wrong, neighbors=1)
    assert accuracy == pytest.approx(1200 / 1300)


def test_knn_with_a_bank_smaller_than_its_neighbours():
    bank, labels = np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32)
    assert knn_accuracy(bank, labels, bank, labels, neighbors=20) == 1.0


def test_rank_me_counts_dimensions():
    rng = np.random.default_rng(0)
    assert rank_me(np.eye(16)) == pytest.approx(16, rel=1e-3)
    assert rank_me(np.outer(rng.normal(size=50), rng.normal(size=16))) == pytest.approx(1, rel=1e-3)
    assert 4 < rank_me(rng.normal(size=(200, 5))) <= 5
