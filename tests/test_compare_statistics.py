"""Intervals and tests: textbook numbers, and simulations with effects of seeds and of images."""

import math

import numpy as np
import pytest
from scipy import stats

from hpm_jax.compare.cells import Cell, CellError, pack
from hpm_jax.compare.statistics import (
    Contrast,
    analyse,
    crossed,
    crossed_bootstrap,
    detectable,
    detectable_difference,
    equivalence,
    estimate,
    holm,
    paired,
    variance_parts,
)

# extra hours of sleep by two drugs, ten patients (Student, 1908; `sleep` in R)
DRUG_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
DRUG_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])

# standard deviations of seeds, images and the rest; with 150 images
SPREADS = {
    "seeds": (1.0, 0.0, 0.0),
    "images": (0.0, 1.0, 0.1),
    "noise": (0.0, 0.0, 1.0),
    "all": (0.05, 0.4, 1.0),
}


def simulate(rng, seeds, spreads, images=150, shift=0.0):
    of_seeds, of_images, rest = spreads
    return (
        shift
        + of_seeds * rng.normal(size=(seeds, 1))
        + of_images * rng.normal(size=(1, images))
        + rest * rng.normal(size=(seeds, images))
    )


def binomial_error(rate, trials):
    return 4 * math.sqrt(rate * (1 - rate) / trials)


def cell(arm, seed, bits, **measures):
    point = {"step": 1, "epoch": 1.0, "measures": measures, "correct": {}, "test_images": 0}
    if bits is not None:
        point["correct"], point["test_images"] = {"logistic": pack(bits)}, len(bits)
        point["measures"] = {"logistic": float(np.mean(bits))} | measures
    return Cell("c", "0", arm, seed, "d", {}, "m", 1, 1, 1.0, {}, {}, [point])


def test_paired_t_of_student():
    found = paired(DRUG_2, DRUG_1)
    assert found.difference == pytest.approx(1.58)
    assert found.difference / found.error == pytest.approx(4.0621, abs=1e-4)
    assert found.freedom == 9
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.interval == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_equivalence_of_toster():
    """The vignette of R's TOSTER: sleep, bounds +-0.5, t = -2.777, p = 0.989."""
    found = paired(DRUG_1, DRUG_2)
    assert (found.difference + 0.5) / found.error == pytest.approx(-2.777, abs=1e-3)
    assert equivalence(found, 0.5) == pytest.approx(0.989, abs=1e-3)
    assert equivalence(found, 3.0) < 0.05


def test_equivalence_is_the_90_percent_interval():
    found = estimate(0.3, 0.2, 7, 8)
    edge = 0.3 + stats.t.ppf(0.95, 7) * 0.2
    assert equivalence(found, edge + 1e-6) < 0.05 < equivalence(found, edge - 1e-6)


def test_holm():
    p = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(holm(np.array(p)), [0.03, 0.06, 0.06, 0.02])
    # a contrast that is not measured yet makes the others no more significant
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.04])), [0.03, np.nan, 0.08])
    assert holm(np.array([0.9, 0.8])).max() == 1


@pytest.mark.parametrize(
    "seeds, deviations", [(3, 3.1), (5, 1.66), (8, 1.15), (12, 0.89), (16, 0.75)]
)
def test_detectable_difference(seeds, deviations):
    """Against `(t(.975) + t(.8)) / sqrt(S)`, which is 5 % low for three seeds, 1 % for five."""
    rough = (stats.t.ppf(0.975, seeds - 1) + stats.t.ppf(0.8, seeds - 1)) / math.sqrt(seeds)
    assert rough == pytest.approx(deviations, abs=0.006)
    assert rough <= detectable_difference(1.0, seeds) < rough * (1.06 if seeds == 3 else 1.02)
    assert detectable_difference(0.7, seeds) == pytest.approx(0.7 * detectable_difference(1, seeds))


def test_detectable_difference_has_its_power():
    rng, trials = np.random.default_rng(0), 40_000
    for seeds in (3, 8):
        d = detectable_difference(1.0, seeds) + rng.normal(size=(trials, seeds))
        seen = stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05
        assert seen.mean() == pytest.approx(0.8, abs=binomial_error(0.8, trials))


def test_detectable_has_limits():
    assert detectable(0.0, 5) == 0
    assert math.isnan(detectable(math.nan, math.nan))
    assert detectable(1.0, math.inf) == pytest.approx(1.96 + 0.8416, abs=1e-3)
    assert detectable(1.0, 9_999) == pytest.approx(detectable(1.0, 10_001), abs=1e-3)
    assert math.isnan(detectable_difference(1.0, 1))


@pytest.mark.parametrize("spreads", SPREADS)
@pytest.mark.parametrize("seeds", [3, 5, 8, 16])
def test_intervals_cover_and_alarms_are_rare(seeds, spreads):
    rng, trials, truth = np.random.default_rng(seeds), 600, 0.3
    missed = 0
    for _ in range(trials):
        d = simulate(rng, seeds, SPREADS[spreads], shift=truth)
        found = crossed(d, np.full_like(d, truth))
        missed += found.p <= 0.05
        assert (found.p <= 0.05) == (not found.low <= 0 <= found.high)
    assert missed / trials == pytest.approx(0.05, abs=binomial_error(0.05, trials))


def test_family_wise_rate():
    """Five contrasts that share an arm, all null: one false alarm or more in 5 % at most."""
    rng, trials, false, uncorrected = np.random.default_rng(1), 300, 0, 0
    for _ in range(trials):
        arms = [simulate(rng, 3, SPREADS["all"], images=100) for _ in range(6)]
        p = np.array([crossed(arm, arms[0]).p for arm in arms[1:]])
        false += holm(p).min() <= 0.05
        uncorrected += p.min() <= 0.05
    assert false / trials <= 0.05 + binomial_error(0.05, trials)
    assert uncorrected / trials > 0.1


def test_equivalence_is_rarely_found_at_the_margin():
    rng, trials = np.random.default_rng(2), 500
    found = [
        equivalence(crossed(d, np.zeros_like(d)), 0.5) <= 0.05
        for d in (simulate(rng, 8, SPREADS["all"], shift=0.5) for _ in range(trials))
    ]
    assert np.mean(found) <= 0.05 + binomial_error(0.05, trials)


def test_bootstrap_is_its_closed_form_and_an_upper_bound():
    rng = np.random.default_rng(3)
    a = simulate(rng, 4, (0.1, 1.0, 1.0), images=200)
    b = np.zeros_like(a)
    of_seeds, of_images, rest = variance_parts(a)
    exact = math.sqrt((of_seeds + rest) * 4 / 3 + of_images)
    assert crossed_bootstrap(a, b, draws=8000) == pytest.approx(exact, rel=0.03)
    assert crossed(a, b).error < exact


def test_crossed_of_one_value_a_seed_is_the_paired_t():
    """Images that all differ alike have no variance: only seeds count."""
    d = np.repeat((DRUG_2 - DRUG_1)[:, None], 50, axis=1)
    assert crossed(d, 0 * d) == pytest.approx(paired(DRUG_2, DRUG_1))


def test_one_seed_has_no_interval():
    for found in (crossed(np.ones((1, 9)), np.zeros((1, 9))), paired(np.ones(1), np.zeros(1))):
        assert (found.seeds, found.difference) == (1, 1.0)
        assert all(map(math.isnan, [*found.interval, found.p, found.error]))
    cells = {(arm, 0): cell(arm, 0, np.ones(9, bool)) for arm in "ab"}
    (result,) = analyse(cells, [Contrast("a", "b", "")], "logistic", 0.01)
    assert result.verdict == "one seed: no interval"


def test_equal_arms_are_equivalent():
    a = np.random.default_rng(0).random((3, 20))
    found = crossed(a, a)
    assert (found.error, found.p, found.interval) == (0, 1, (0, 0))
    assert equivalence(found, 0.01) == 0


def verdicts(shift, rises=True, spread=0.001, margin=0.01, seeds=8):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=seeds)
    noise = (noise - noise.mean()) / noise.std()
    cells = {("a", s): cell("a", s, None, loss=0.5 + shift + spread * noise[s]) for s in range(8)}
    cells |= {("b", s): cell("b", s, None, loss=0.5) for s in range(8)}
    (result,) = analyse(cells, [Contrast("a", "b", "c")], "loss", margin, rises)
    assert result.test == "paired t"
    return result.verdict


def test_verdicts():
    assert verdicts(0.02) == "held"
    assert verdicts(-0.02) == "contradicted"
    assert verdicts(-0.02, rises=False) == "held"
    assert verdicts(0.0) == "no effect"
    assert verdicts(0.0, spread=0.1) == "not seen"
    assert verdicts(math.nan).startswith("not a number")


def test_analyse_takes_common_seeds_and_says_what_is_missing():
    rng = np.random.default_rng(0)
    cells = {
        (arm, seed): cell(arm, seed, rng.random(500) < 0.5)
        for arm, seeds in {"a": 4, "b": 3, "raw_pixels": 1}.items()
        for seed in range(seeds)
    }
    contrasts = [Contrast("a", "b", ""), Contrast("a", "raw_pixels", ""), Contrast("a", "z", "")]
    first, pixels, missing = analyse(cells, contrasts, "logistic", 0.01, draws=50)
    assert first.found.seeds == 3 and first.test == "crossed" and first.bootstrap > 0
    assert first.p_holm == pytest.approx(min(1, 2 * max(first.found.p, pixels.found.p))) or (
        first.p_holm == pytest.approx(min(1, 3 * first.found.p))
    )
    assert pixels.found.seeds == 4  # raw pixels are the same for every seed
    assert missing.found is None and missing.verdict == "no cell of z"
    (none,) = analyse(cells, [Contrast("a", "b", "")], "knn", 0.01)
    assert none.verdict == "no cell of a and b"


def test_analyse_refuses_other_test_images():
    cells = {("a", 0): cell("a", 0, np.ones(8, bool)), ("b", 0): cell("b", 0, np.ones(9, bool))}
    with pytest.raises(CellError, match=r"\[8, 9\] test images"):
        analyse(cells, [Contrast("a", "b", "")], "logistic", 0.01)
