"""Differences between arms: intervals, tests, equivalence and detectable differences.

Each seed is run in every arm, and each model classifies the same test images. Differences between
two arms `d[s, i]` of seed s and image i are then crossed: `mean + A_s + B_i + E_si`. The variance
of their mean over S seeds and N images is `var(A)/S + var(B)/N + var(E)/(S N)`, so the interval
holds for new seeds and new test images.

The bootstrap over seeds x images (Owen, "The pigeonhole bootstrap", 2007) counts `var(E)` three
times: simulated 95 % intervals covered 97 to 99 %. The unbiased estimate of the three components
is reported, and covers 94 to 96 % for 3, 5, 8 and 16 seeds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from hpm_jax.compare.cells import DETERMINISTIC, CellError, Cells, correctness, value

LEVEL = 0.05  # two-sided; of each of the two one-sided tests of equivalence
POWER = 0.8
_NANS = (math.nan, math.nan, math.nan, math.nan)


class Estimate(NamedTuple):
    """A mean difference of two arms.

    With one seed, only `difference` is a number; the others are nan.
    """

    seeds: int
    difference: float
    error: float  # standard error
    freedom: float  # degrees of freedom of the t distribution; inf is the normal one
    low: float  # of the 95 % interval
    high: float
    p: float  # two-sided

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.low, self.high


def estimate(difference: float, error: float, freedom: float, seeds: int) -> Estimate:
    """The t interval and the two-sided p of a mean difference and its standard error."""
    if seeds < 2:
        return Estimate(seeds, difference, *[math.nan] * 5)
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    p = float(2 * _upper_tail(abs(difference), error, freedom))
    return Estimate(seeds, difference, error, freedom, difference - half, difference + half, p)


def _upper_tail(difference: float, error: float, freedom: float) -> float:
    """Returns P(T > difference / error); without spread, 0, 0.5 or 1 by its sign."""
    if error == 0:
        return 0.5 if difference == 0 else float(difference < 0)
    return float(stats.t.sf(difference / error, freedom))


def paired(a: np.ndarray, b: np.ndarray) -> Estimate:
    """The paired t test of one number a seed, `[S]` each, in the same order of seeds."""
    d = np.asarray(a, float) - np.asarray(b, float)
    seeds = len(d)
    error = float(d.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    return estimate(float(d.mean()), error, seeds - 1, seeds)


def crossed(a: np.ndarray, b: np.ndarray) -> Estimate:
    """The difference of correctness `[S, N]` of two arms, for new seeds and new test images.

    The error joins that of the paired t test over seeds, `var(A)/S + var(E)/(S N)` with S - 1
    degrees of freedom, and the `var(B)/N` of the images, which is as good as known. The degrees
    of freedom are S - 1 times the variance over the part of the seeds. Satterthwaite's, which
    has the square of that, covers 92 % for three seeds.
    """
    d = np.asarray(a, float) - np.asarray(b, float)
    seeds, images = d.shape
    if seeds < 2:
        return estimate(float(d.mean()), math.nan, math.nan, seeds)
    by_seed, by_image, rest = variance_parts(d)
    of_seeds = by_seed * seeds / (seeds - 1)
    of_images = by_image * images / (images - 1) - rest * (
        seeds * images / ((seeds - 1) * (images - 1))
    )
    variance = of_seeds + max(of_images, 0.0)
    freedom = (seeds - 1) * variance / of_seeds if of_seeds > 0 else math.inf
    return estimate(float(d.mean()), math.sqrt(variance), freedom, seeds)


def variance_parts(d: np.ndarray) -> tuple[float, float, float]:
    """The exact variance of the bootstrap's mean, in three parts: seeds, images, interaction.

    The multinomial weights of seeds and of images are independent, so the parts add up. Each is a
    sum of squares over the square of its count: of the means of the seeds, of the means of the
    images, and of what both leave of `d` `[S, N]`.
    """
    rows = d.mean(axis=1, keepdims=True) - d.mean()
    columns = d.mean(axis=0, keepdims=True) - d.mean()
    rest = d - d.mean() - rows - columns
    seeds, images = d.shape
    return (
        float((rows**2).sum()) / seeds**2,
        float((columns**2).sum()) / images**2,
        float((rest**2).sum()) / (seeds * images) ** 2,
    )


def crossed_bootstrap(a: np.ndarray, b: np.ndarray, draws: int = 1000, seed: int = 0) -> float:
    """The standard error of the bootstrap over seeds x images, `[S, N]` each; nan for one seed.

    Seeds and images are drawn with replacement, independently. The part of the seeds is scaled by
    `sqrt(S / (S - 1))`, so that it is unbiased for few seeds. It is an upper bound: see above.
    """
    d = np.asarray(a, float) - np.asarray(b, float)
    seeds, images = d.shape
    if seeds < 2:
        return math.nan
    rng = np.random.default_rng(seed)
    scale = math.sqrt(seeds / (seeds - 1))
    of_images = d.mean(axis=0)
    centred = d - of_images
    means = np.empty(draws)
    for number in range(draws):
        drawn = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds) / seeds
        chosen = np.bincount(rng.integers(images, size=images), minlength=images) / images
        means[number] = scale * (drawn @ centred @ chosen) + of_images @ chosen
    return float(means.std(ddof=1))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's corrected p values; a contrast without one (nan) stays in the family, as 1."""
    p = np.asarray(p, float)
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, kind="stable")
    steps = np.maximum.accumulate(filled[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return np.where(np.isnan(p), np.nan, corrected)


def equivalence(found: Estimate, margin: float) -> float:
    """The p of the two one-sided tests that the difference is within +-margin; nan for one seed.

    Schuirmann (1987): at 5 % it is the same as a 90 % interval inside the margin.
    """
    if math.isnan(found.error):
        return math.nan
    above = _upper_tail(found.difference + margin, found.error, found.freedom)
    below = _upper_tail(margin - found.difference, found.error, found.freedom)
    return max(above, below)


def detectable(error: float, freedom: float) -> float:
    """Returns the smallest true difference detected with power 80 % at two-sided 5 %; nan for nan.

    It comes from the noncentral t distribution; the other tail, below 0.0001, is left out.
    """
    if not error > 0:
        return error  # 0 or nan
    critical = float(stats.t.ppf(1 - LEVEL / 2, freedom))
    if freedom > 1e4:  # the normal distribution to 4 digits, and nct has no infinite freedom
        return error * (critical + float(stats.norm.ppf(POWER)))
    shift = optimize.brentq(
        lambda shift: stats.nct.sf(critical, freedom, shift) - POWER, 0.5, 4 * critical
    )
    return error * float(shift)


def detectable_difference(deviation: float, seeds: int) -> float:
    """`detectable` of a paired t test, from the standard deviation of the paired difference."""
    if seeds < 2:
        return math.nan
    return detectable(deviation / math.sqrt(seeds), seeds - 1)


class Contrast(NamedTuple):
    """A difference registered before the runs: `claim` expects `better` > `worse`."""

    better: str
    worse: str
    claim: str


class Result(NamedTuple):
    """The result of one contrast, in units of the measure.

    Attributes:
        found: of `better` - `worse`; None where no seed has both.
        p_holm: corrected over all contrasts of the comparison.
        p_equivalent: of the difference being outside +-margin.
        detectable: see `detectable`.
        bootstrap: standard error of `crossed_bootstrap`, nan if it was not run.
        test: "crossed" with a bit for each test image, otherwise "paired t".
        verdict: "held" (significant after Holm, as claimed), "contradicted" (significant, the
            other way), "no effect" (equivalent within the margin), "not seen" (none of these),
            "one seed: no interval", or which cells are missing.
    """

    contrast: Contrast
    measure: str
    found: Estimate | None
    p_holm: float
    p_equivalent: float
    detectable: float
    bootstrap: float
    test: str
    verdict: str


def analyse(
    cells: Cells,
    contrasts: Sequence[Contrast],
    measure: str,
    margin: float,
    rises: bool = True,
    draws: int = 0,
) -> list[Result]:
    """Tests every contrast on one measure, over the seeds that both arms have.

    Args:
        margin: of equivalence, in units of the measure.
        rises: whether more is better.
        draws: of the bootstrap beside the reported error.

    Raises:
        CellError: for arms whose test images differ in number.
    """
    results = [_result(cells, contrast, measure, margin, draws) for contrast in contrasts]
    corrected = holm(np.array([r.found.p if r.found else math.nan for r in results]))
    return [
        result._replace(p_holm=float(p), verdict=_verdict(result, float(p), rises))
        for result, p in zip(results, corrected, strict=True)
    ]


def _result(cells: Cells, contrast: Contrast, measure: str, margin: float, draws: int) -> Result:
    """A result before Holm's correction; its verdict says only what is missing."""
    a, b, with_bits = _matched(cells, contrast, measure)
    if not len(a):
        having = {arm for (arm, _), cell in cells.items() if value(cell, measure) is not None}
        lacking = [arm for arm in contrast[:2] if arm not in having]
        verdict = f"no cell of {' and '.join(lacking)}" if lacking else "no seed in common"
        return Result(contrast, measure, None, *_NANS, "none", verdict)
    found = crossed(a, b) if with_bits else paired(a, b)
    return Result(
        contrast,
        measure,
        found,
        math.nan,
        equivalence(found, margin),
        detectable(found.error, found.freedom),
        crossed_bootstrap(a, b, draws) if with_bits and draws else math.nan,
        "crossed" if with_bits else "paired t",
        "",
    )


def _matched(cells: Cells, contrast: Contrast, measure: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Both arms at their common seeds, `[S, N]` where every cell has bits, otherwise `[S]`."""
    arms = [
        {
            seed: cell
            for (arm, seed), cell in cells.items()
            if arm == name and value(cell, measure) is not None
        }
        for name in contrast[:2]
    ]
    for name, mine, other in zip(contrast[:2], arms, reversed(arms), strict=False):
        if name in DETERMINISTIC and mine:
            mine |= dict.fromkeys(other, next(iter(mine.values())))
    seeds = sorted(arms[0].keys() & arms[1].keys())
    bits = [[correctness(arm[seed], measure) for seed in seeds] for arm in arms]
    sizes = {-1 if found is None else len(found) for row in bits for found in row}
    if len(sizes - {-1}) > 1:
        raise CellError(
            f"{contrast.better} and {contrast.worse} have {sorted(sizes - {-1})} test images in "
            f"{measure}: measure all arms on the same ones"
        )
    if seeds and -1 not in sizes:
        return np.array(bits[0]), np.array(bits[1]), True
    values = np.array([[value(arm[seed], measure) for seed in seeds] for arm in arms], float)
    return values[0], values[1], False


def _verdict(result: Result, p_holm: float, rises: bool) -> str:
    if result.verdict:
        return result.verdict
    assert result.found is not None
    if result.found.seeds < 2:
        return "one seed: no interval"
    if math.isnan(result.found.difference):
        return "not a number: a run has diverged"
    if p_holm <= LEVEL:
        return "held" if (result.found.difference > 0) == rises else "contradicted"
    return "no effect" if result.p_equivalent <= LEVEL else "not seen"
