"""What is measured of frozen features: against plain formulas and scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from hpm_jax.config import ConfigError
from hpm_jax.data.sources import DataError
from hpm_jax.evaluation import knn, logistic
from hpm_jax.evaluation.checks import check_bank, check_labelled, validation_tenth
from hpm_jax.evaluation.few_shot import draw, few_shot_accuracy, ridge_classifier
from hpm_jax.evaluation.knn import knn_accuracy, rank_me
from hpm_jax.evaluation.logistic import LinearClassifier, fit, logistic_accuracy, standardised


def blobs(examples, width, classes, spread=1.0, seed=0):
    """Features around one centre a class, and labels; the first `classes` have one each."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, width))
    labels = rng.integers(0, classes, examples)
    labels[:classes] = np.arange(classes)
    features = centres[labels] + spread * rng.normal(size=(examples, width))
    return features.astype(np.float32), labels


@pytest.fixture(scope="module")
def digits():
    """Raw pixels: a bank of 900 and 897 queries."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order].astype(np.float32), labels[order]
    return pixels[:900], labels[:900], pixels[900:], labels[900:]


def voted(bank, bank_labels, queries, neighbors, temperature):
    """The vote, query by query."""

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    scores = []
    for row in unit(queries.astype(np.float64)) @ unit(bank.astype(np.float64)).T:
        votes = np.zeros(bank_labels.max() + 1)
        for index in np.argsort(-row)[:neighbors]:
            votes[bank_labels[index]] += np.exp(row[index] / temperature)
        scores.append(votes)
    return np.array(scores)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_knn_votes_as_the_formula_says(temperature):
    """The bank is two blocks and a half, and 40 of its 300 are not enough to find all of them."""
    bank, bank_labels = blobs(300, 8, 4, spread=2.0)
    queries, labels = blobs(57, 8, 4, spread=2.0, seed=1)
    accuracy = knn_accuracy(bank, bank_labels, queries, labels, (40, 1, 7), temperature)
    assert list(accuracy) == [40, 1, 7]
    for count, share in accuracy.items():
        right = voted(bank, bank_labels, queries, count, temperature).argmax(axis=1) == labels
        assert 0.3 < share < 1 and share == pytest.approx(right.mean())


def test_knn_top_five():
    """The label among the five classes with most votes, and nobody's class is none of them."""
    bank, bank_labels = blobs(300, 6, 12, spread=3.0)
    queries, labels = blobs(80, 6, 12, spread=3.0, seed=1)
    found = knn.knn_accuracies(bank, bank_labels, queries, labels, (3, 30))
    for count, (top1, top5) in found.items():
        votes = voted(bank, bank_labels, queries, count, 0.07)
        best = np.argsort(-votes, axis=1)[:, :5]
        chosen = (best == labels[:, None]) & (np.take_along_axis(votes, best, axis=1) > 0)
        assert top5 == pytest.approx(chosen.any(axis=1).mean())
        assert top1 == pytest.approx((votes.argmax(axis=1) == labels).mean()) and top1 < top5 < 1


def test_knn_counts_every_query_once(monkeypatch):
    """Chunks of 100 queries, 13 and a half of them; a query in the bank finds itself."""
    features, labels = blobs(1350, 6, 10)
    monkeypatch.setattr(knn, "SIMILARITIES", 100 * len(features))
    assert knn_accuracy(features, labels, features, labels, (1,)) == {1: 1.0}
    wrong = labels.copy()
    wrong[-100:] = (wrong[-100:] + 1) % 10
    accuracy = knn_accuracy(features, labels, features, wrong, (1,))
    assert accuracy == {1: pytest.approx(1250 / 1350)}


@pytest.mark.parametrize("length", [5, 128, 1000, 5000])
def test_the_largest_values_of_a_row(length):
    values = np.random.default_rng(length).normal(size=(7, length)).astype(np.float32)
    values[0] = np.sort(values[0])[::-1]  # all of the largest in the first block
    values[1] = -np.abs(values[1])  # nothing that fills up a block is above these
    top, index = knn.largest(values, 5)
    np.testing.assert_array_equal(top, -np.sort(-values, axis=1)[:, :5])
    np.testing.assert_array_equal(np.take_along_axis(values, np.asarray(index), axis=1), top)


def test_knn_with_a_bank_smaller_than_its_neighbours():
    bank, labels = np.eye(3, dtype=np.float32), np.arange(3)
    assert knn_accuracy(bank, labels, bank, labels, (20, 2)) == {20: 1.0, 2: 1.0}


def test_draws_are_different_images_of_their_class():
    labels = np.random.default_rng(0).integers(0, 7, 200)
    drawn = draw(np.random.default_rng(3), labels, 7, 5)
    np.testing.assert_array_equal(labels[drawn], np.repeat(np.arange(7), 5).reshape(7, 5))
    assert len(np.unique(drawn)) == 35
    assert (draw(np.random.default_rng(3), labels, 7, 5) == drawn).all()
    assert (draw(np.random.default_rng(4), labels, 7, 5) != drawn).any()


@pytest.mark.parametrize("width", [5, 60])  # the primal system, and the dual one, of 24 images
def test_ridge_is_scikit_learns(width):
    classes, count, ridge = 4, 6, 0.3
    examples = np.random.default_rng(0).normal(2.0, 3.0, (classes, count, width))
    x = examples.reshape(-1, width)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True) * len(x))
    mean_eigenvalue = eigenvalues.sum() / min(x.shape)
    targets = np.repeat(2 * np.eye(classes) - 1, count, axis=0)
    expected = Ridge(alpha=ridge * mean_eigenvalue).fit(x, targets).predict(x)
    kernel, bias = ridge_classifier(examples, ridge)
    # targets of -1 and 1 in place of centred ones: twice as far apart, around 2 / classes - 1
    np.testing.assert_allclose(
        2 * (x @ kernel + bias) + 2 / classes - 1, expected, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        ridge_classifier(1000 * examples, ridge)[0] * 1000, kernel, rtol=1e-4
    )


def test_few_shot_on_digits(digits):
    accuracy = few_shot_accuracy(*digits, shots=(1, 10), draws=3, seed=1)
    again = few_shot_accuracy(*digits, shots=(10,), draws=3, seed=1)
    other = few_shot_accuracy(*digits, shots=(10,), draws=3, seed=2)
    assert accuracy[10] == again[10] != other[10]
    assert accuracy[1][0] < 0.75 < 0.85 < accuracy[10][0] < 0.95
    assert 0 < accuracy[10][1] < 0.1


def test_few_shot_mean_and_deviation(digits):
    """Of the single draws, which do not depend on how many there are."""
    bank, bank_labels, queries, labels = digits
    shares = []
    for number in range(3):
        drawn = draw(np.random.default_rng((5, number)), bank_labels, 10, 2)
        kernel, bias = ridge_classifier(bank[drawn], 0.3)
        shares.append(((queries @ kernel + bias).argmax(1) == labels).mean())
    mean, deviation = few_shot_accuracy(*digits, shots=(2,), draws=3, seed=5)[2]
    assert mean == pytest.approx(np.mean(shares))
    assert deviation == pytest.approx(np.sqrt(np.square(np.array(shares) - mean).sum() / 2))
    assert few_shot_accuracy(*digits, shots=(2,), draws=1, seed=5)[2] == (shares[0], 0.0)


def test_few_shot_of_features_that_are_all_the_same():
    labels = np.arange(20) % 4
    same = np.ones((20, 6), np.float32)
    assert few_shot_accuracy(same, labels, same, labels, shots=(1, 3))[3] == (0.25, 0.0)


def test_few_shot_names_the_class_with_too_few_images():
    bank, labels = blobs(100, 4, 3)
    labels[:] = np.arange(100) % 2
    labels[:4] = 2
    with pytest.raises(DataError, match="class 2 has 4 images in the bank, and 5 shots"):
        few_shot_accuracy(bank, labels, bank, labels, shots=(1, 5))


def test_standardised():
    bank = np.random.default_rng(0).normal(5.0, 3.0, (50, 4)).astype(np.float32)
    bank[:, 2] = 0.1  # constant
    queries = bank[:7] + 1
    a, b = standardised(bank, queries)
    deviation = np.where(np.arange(4) == 2, np.inf, bank.std(axis=0))
    np.testing.assert_allclose(a, (bank - bank.mean(axis=0)) / deviation, atol=1e-5)
    np.testing.assert_allclose(b, (queries - bank.mean(axis=0)) / deviation, atol=1e-5)


@pytest.fixture
def regression(monkeypatch):
    """The arguments of a fit, in three chunks, of which the last overlaps; 99 have weight 0."""
    monkeypatch.setattr(logistic, "LOGITS", 140 * 5)
    features, labels = blobs(400, 12, 5, spread=2.5)
    start = LinearClassifier(np.zeros((12, 5), np.float32), np.zeros(5, np.float32))
    weights = (np.arange(400) < 301).astype(np.float32)
    return start, features, labels.astype(np.int32), weights


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_logistic_regression_is_scikit_learns(strength, regression):
    ours = fit(*regression, strength, 300)
    theirs = LogisticRegression(C=1 / (301 * strength), tol=1e-8, max_iter=1000)
    _, features, labels, _ = regression
    theirs.fit(features[:301].astype(np.float64), labels[:301])
    np.testing.assert_allclose(ours.kernel, theirs.coef_.T, atol=2e-3)
    bias = np.asarray(ours.bias)  # free up to a constant
    np.testing.assert_allclose(
        bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3
    )


def test_a_fit_ends_at_its_iterations(regression):
    none, one, ten = (np.asarray(fit(*regression, 1e-3, count).kernel) for count in (0, 1, 10))
    assert not none.any() and one.any() and not np.allclose(one, ten, atol=1e-2)


def test_logistic_accuracy_on_digits(digits):
    bank, bank_labels, queries, labels = digits
    result = logistic_accuracy(*digits, strengths=(1e-2, 1.0), iterations=60)
    assert result.held_out[1e-2] > result.held_out[1.0] and result.strength == 1e-2
    mean, deviation = bank.mean(axis=0), bank.std(axis=0)
    deviation[deviation == 0] = np.inf
    theirs = LogisticRegression(C=1 / (len(bank) * result.strength), max_iter=500)
    theirs.fit((bank - mean) / deviation, bank_labels)
    expected = theirs.score((queries - mean) / deviation, labels)
    assert expected > 0.9 and result.accuracy == pytest.approx(expected, abs=2.5 / len(queries))


def test_the_strength_is_chosen_without_the_queries(digits):
    bank, bank_labels, queries, labels = digits
    result = logistic_accuracy(*digits, strengths=(1e-2, 1.0), iterations=20)
    wrong = logistic_accuracy(
        bank, bank_labels, queries, (labels + 1) % 10, strengths=(1e-2, 1.0), iterations=20
    )
    assert wrong.held_out == result.held_out and wrong.strength == result.strength
    assert wrong.accuracy < 0.1


def test_the_strength_is_chosen_on_what_was_not_fitted(digits):
    """Labels at random: whoever has seen them knows them better than one in ten."""
    bank, bank_labels, queries, labels = digits
    labels_at_random = np.random.default_rng(0).permutation(bank_labels)
    result = logistic_accuracy(bank, labels_at_random, queries, labels, (1e-4,), iterations=50)
    assert result.held_out[1e-4] < 0.17


def test_hold_out():
    rest, held_out = validation_tenth(57)
    assert len(held_out) == 6 and sorted([*rest, *held_out]) == list(range(57))
    assert (validation_tenth(57)[1] == held_out).all() and (
        validation_tenth(57, seed=1)[1] != held_out
    ).any()
    assert len(validation_tenth(3)[1]) == 1


def test_what_cannot_be_learnt_from():
    features, labels = blobs(20, 4, 3)
    check_labelled(features, labels, "bank")
    for wrong, message in (
        ((features, labels[:-1]), r"bank: features of shape \(20, 4\) .* labels of shape \(19,\)"),
        ((features[:0], labels[:0]), "N at least 1"),
        ((features[0], labels[:4]), "expected .N, ...."),
        ((features, labels.astype(np.float32)), "labels are float32: expected integers"),
        ((features, labels - 1), "labels go from -1 to 1: expected 0 and up"),
    ):
        with pytest.raises(DataError, match=message):
            check_labelled(*wrong, "bank")
    with pytest.raises(DataError, match="labels go from 0 to 2: expected 0 to 1"):
        check_labelled(features, labels, "bank", classes=2)
    for value in (np.nan, np.inf):
        for shape in ((20, 4), (20, 2, 2)):
            broken = features.copy()
            broken[[3, 8], 2] = value
            with pytest.raises(DataError, match=r"2 of 20 images .* first of image 3"):
                check_labelled(broken.reshape(shape), labels, "bank")


def test_what_cannot_be_compared():
    features, labels = blobs(20, 4, 3)
    assert check_bank(features, labels, features, np.full(20, 5)) == 6
    with pytest.raises(DataError, match="all 20 labels are 1: expected two classes"):
        check_bank(features, np.ones(20, int), features, labels)
    with pytest.raises(DataError, match=r"shape \(4,\), queries of \(3,\)"):
        check_bank(features, labels, features[:, :3], labels)
    for wrong in ({"shots": (1, 0)}, {"draws": 0}):
        with pytest.raises(ConfigError, match="expected at least 1 each"):
            few_shot_accuracy(features, labels, features, labels, **wrong)
    with pytest.raises(ConfigError, match=r"neighbors = \(20, 0\): expected at least 1 each"):
        knn_accuracy(features, labels, features, labels, (20, 0))
    for score in (knn_accuracy, few_shot_accuracy, logistic_accuracy):
        with pytest.raises(DataError, match="queries: labels go from -1"):
            score(features, labels, features, labels - 1)


def test_rank_me_counts_dimensions():
    rng = np.random.default_rng(0)
    assert rank_me(np.eye(16)) == pytest.approx(16, rel=1e-3)
    assert rank_me(np.outer(rng.normal(size=50), rng.normal(size=16))) == pytest.approx(1, rel=1e-3)
    assert 4 < rank_me(rng.normal(size=(200, 5))) <= 5
