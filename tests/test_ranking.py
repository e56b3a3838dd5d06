"""The statistics of rankings: known values, scipy's figures, and intervals that hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nas.ranking import (
    RELIABLE,
    Correlation,
    ceiling,
    correlate,
    kendall,
    pooled_variance,
    quantile_of_largest,
    regret,
    spearman,
    top_recall,
    verdict,
)

RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


@pytest.mark.parametrize("statistic", [spearman, kendall])
def test_perfect_reversed_and_constant(statistic) -> None:
    assert statistic(RISING, [value**3 for value in RISING]) == pytest.approx(1)
    assert statistic(RISING, RISING[::-1]) == pytest.approx(-1)
    assert statistic(RISING, [0.5] * 6) is None
    assert statistic([0.5] * 6, RISING) is None


def test_means_that_differ_by_rounding_are_tied() -> None:
    assert 0.1 + 0.2 != 0.3
    assert spearman([1, 2, 3, 4], [0.1 + 0.2, 0.3, 0.5, 0.6]) == spearman([1, 2, 3, 4], [0.3, 0.3, 0.5, 0.6])
    assert kendall([1, 2], [0.1 + 0.2, 0.3]) is None
    assert top_recall([2, 1, 0], [0.1 + 0.2, 0.3, 0.1], 1) == 0.5


def test_known_values() -> None:
    # One swap of neighbours in four: 1 - 6 * 2 / (4 * 15), and (5 - 1) / 6.
    assert spearman([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)
    assert kendall([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(10))
def test_ties_are_treated_as_scipy_does(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 4, (2, 12)).astype(float)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert kendall(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)


def test_intervals_are_reproducible_and_around_the_value() -> None:
    runs = [[value, value + 0.03, value - 0.02] for value in (0.1, 0.3, 0.2, 0.5, 0.4, 0.6)]
    for one, again in zip(correlate(RISING, runs), correlate(RISING, runs), strict=True):
        assert one == again
        assert one.low is not None
        assert one.low < one.value < one.high
    assert correlate(RISING, runs, seed=1) != correlate(RISING, runs)


def test_the_resamples_hold_architectures_and_runs() -> None:
    # Without noise between runs, a perfect ranking is perfect in every resample; with noise that swamps it, never.
    quiet, _ = correlate(RISING, [[value, value] for value in RISING])
    assert quiet.low == pytest.approx(1)
    loud, _ = correlate(RISING, [[value, value + 9 * (-1) ** k] for k, value in enumerate(RISING)])
    assert loud.low < 0 < loud.high


def test_resamples_without_variance_are_dropped_and_counted() -> None:
    ranker = [0.0] * 5 + [1.0]
    found, _ = correlate(ranker, [[value] for value in RISING], resamples=500)
    # A resample without the last architecture, or of nothing else: (5/6)^6 = 33 % of them.
    assert found.dropped / 500 == pytest.approx((5 / 6) ** 6, abs=0.06)
    constant, _ = correlate([0.0] * 6, [[value] for value in RISING], resamples=50)
    assert constant == Correlation(value=None, low=None, high=None, dropped=50)


def test_architectures_may_have_different_numbers_of_runs() -> None:
    runs = [[0.1], [0.2, 0.2], [0.3, 0.3, 0.3], [0.4], [0.5, 0.5]]
    found, _ = correlate([1, 2, 3, 4, 5], runs)
    assert found.low == found.high == pytest.approx(1)
    with pytest.raises(ValueError, match="every ranked architecture needs a run"):
        correlate([1, 2], [[0.1], []])


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_intervals_hold_the_truth(correlation: float) -> None:
    generator = np.random.default_rng(0)
    noise, count, held = 0.4, 200, 0
    truth = 6 / math.pi * math.asin(correlation / math.sqrt(1 + noise**2 / 3) / 2)  # Pearson, 1907
    for _ in range(count):
        true = generator.standard_normal(12)
        ranker = correlation * true + math.sqrt(1 - correlation**2) * generator.standard_normal(12)
        runs = true[:, None] + noise * generator.standard_normal((12, 3))
        found, _ = correlate(ranker.tolist(), runs.tolist(), resamples=200)
        held += found.low <= truth <= found.high
    assert held / count >= 0.9


def test_top_recall() -> None:
    means = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert top_recall([6, 5, 4, 3, 2, 1], means, 3) == 3
    assert top_recall([1, 2, 3, 4, 5, 6], means, 3) == 0
    assert top_recall([6, 1, 5, 4, 2, 3], means, 3) == 2
    # Four equal ones share the two places behind the first: half of the second and of the third is found.
    assert top_recall([9, 5, 5, 5, 5, 1], means, 3) == 2
    assert top_recall([1] * 6, means, 3) == pytest.approx(3 * 3 / 6)
    with pytest.raises(ValueError, match="k must be between 1 and 6"):
        top_recall(means, means, 7)


def test_pooled_variance_ignores_single_runs() -> None:
    assert pooled_variance([[1.0, 3.0], [5.0], [2.0, 2.0, 5.0]]) == (pytest.approx((2 + 6) / 3), 3)
    assert pooled_variance([[1.0], [2.0]]) == (None, 0)


@pytest.mark.parametrize("degrees", [1, 3, 30])
def test_the_quantile_for_one_comparison_is_students(degrees: int) -> None:
    assert quantile_of_largest(degrees) == pytest.approx(stats.t.ppf(0.975, degrees))


@pytest.mark.parametrize(("degrees", "comparisons"), [(3, 10), (10, 3), (40, 49)])
def test_the_quantile_of_the_largest_is_that_of_a_simulation(degrees: int, comparisons: int) -> None:
    generator = np.random.default_rng(0)
    largest = np.abs(generator.standard_normal((100_000, comparisons))).max(axis=1)
    largest /= np.sqrt(generator.chisquare(degrees, 100_000) / degrees)
    assert (largest <= quantile_of_largest(degrees, comparisons)).mean() == pytest.approx(0.95, abs=0.004)


def test_the_quantile_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="degrees and comparisons must be at least 1, but got 0 and 1"):
        quantile_of_largest(0)


def test_regret_by_hand() -> None:
    runs = [[0.90, 0.92], [0.95, 0.97], [0.80, 0.82]]
    found = regret(runs, 0)
    assert found.value == pytest.approx(0.05)
    # The pooled standard deviation is sqrt(0.0002), so that of a difference of two means of two is the same.
    half = quantile_of_largest(3, 2) * math.sqrt(0.0002)
    assert (found.low, found.high) == (pytest.approx(max(0, 0.05 - half)), pytest.approx(0.05 + half))
    assert regret(runs, 1).value == 0
    assert regret(runs, 1).low == 0
    assert regret([[0.9], [0.8]], 0).high is None


def test_the_interval_of_the_regret_holds_the_truth() -> None:
    generator = np.random.default_rng(0)
    true = np.array([0.90, 0.91, 0.92, 0.92, 0.93])
    held = 0
    for _ in range(200):
        found = regret((true[:, None] + 0.01 * generator.standard_normal((5, 3))).tolist(), 0)
        held += found.low <= 0.03 <= found.high
    assert held >= 190


def test_the_ceiling_is_the_correlation_that_noise_leaves() -> None:
    generator = np.random.default_rng(0)
    true = generator.standard_normal(2000)
    runs = true[:, None] + generator.standard_normal((2000, 3))
    reached = np.corrcoef(true, runs.mean(axis=1))[0, 1]
    assert ceiling(runs.tolist()) == pytest.approx(reached, abs=0.02)
    assert reached == pytest.approx(math.sqrt(1 / (1 + 1 / 3)), abs=0.02)
    assert ceiling([[1.0, 3.0], [3.0, 1.0]]) == 0
    assert ceiling([[1.0], [3.0]]) is None


@pytest.mark.parametrize(
    ("low", "word"),
    [(RELIABLE, "reliable"), (RELIABLE - 0.01, "weak"), (0.0, "not usable here"), (None, "not usable here")],
)
def test_verdict(low: float | None, word: str) -> None:
    assert verdict(Correlation(value=0.9, low=low, high=1.0, dropped=0)) == word
