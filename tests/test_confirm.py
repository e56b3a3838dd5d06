"""Who is trained again, what is left of a lucky accuracy, and the probability of being on the front."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from rows import make_row
from scipy import stats

from nas.confirm import on_fronts, shrink, unconfirmed, with_probabilities
from nas.front import Row, mark_front, non_dominated


def known(row: Row, error: float, seeds: int = 1) -> Row:
    return dataclasses.replace(row, seed_error=error / seeds**0.5, seed_degrees=20, seeds=seeds)


def test_front_and_what_was_begun_are_to_be_confirmed() -> None:
    rows = [make_row(0, 0.8, 2.0, "bare"), make_row(1, 0.9, 2.5), make_row(2, 0.7, 3.0), make_row(3, 0.7, 3.0)]
    rows[2] = dataclasses.replace(rows[2], seeds=2)
    rows[1] = dataclasses.replace(rows[1], seeds=4)
    assert [row.trial for row in unconfirmed(mark_front(rows), 3)] == [0, 2]
    assert unconfirmed(mark_front(rows), 0) == []


def test_equal_variances_shrink_as_stein_does() -> None:
    means = np.array([0.80, 0.84, 0.88, 0.90, 0.95])
    shrunk, _ = shrink(means, [0.001] * 5)
    # With equal variances A = S / (k - 1) - V, so that B = (k - 3) V / S: the James-Stein estimator around the mean.
    factor = 2 * 0.001 / ((means - means.mean()) ** 2).sum()
    assert shrunk == pytest.approx(means - factor * (means - means.mean()))


def test_a_lucky_seed_shrinks_more_than_a_confirmed_mean() -> None:
    means = [0.80, 0.82, 0.84, 0.86, 0.90, 0.90]
    shrunk, deviations = shrink(means, [0.001] * 5 + [0.001 / 4])
    assert shrunk[4] < shrunk[5] < 0.90
    assert deviations[4] > deviations[5]


def test_few_or_exact_means_stay() -> None:
    assert list(shrink([0.1, 0.2, 0.3], [0.01] * 3)[0]) == [0.1, 0.2, 0.3]
    means, deviations = shrink([0.1, 0.2, 0.3, 0.4], [0.0] * 4)
    assert list(means) == [0.1, 0.2, 0.3, 0.4]
    assert not deviations.any()


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_the_true_accuracies_lie_where_shrinking_says(spread: float) -> None:
    generator = np.random.default_rng(0)
    variances = np.where(np.arange(20) < 5, 0.25, 1.0)
    held, error, raw = [], [], []
    for _ in range(100):
        true = spread * generator.standard_normal(20)
        means = true + np.sqrt(variances) * generator.standard_normal(20)
        shrunk, deviations = shrink(means, variances)
        held.append(abs(shrunk - true) <= 1.96 * deviations)
        error.append((shrunk - true) ** 2)
        raw.append((means - true) ** 2)
    assert np.mean(held) >= 0.93
    assert np.mean(error) < np.mean(raw)


@pytest.mark.parametrize("seed", range(5))
def test_many_fronts_at_once_are_the_front_of_each(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Few distinct values, so that ties and equal points are frequent.
    accuracy, latency = generator.integers(1, 6, (2, 40, 12)) / 8
    found = on_fronts(accuracy, latency)
    for k in range(40):
        assert list(found[k]) == non_dominated(list(zip(accuracy[k], latency[k], strict=True)))


def test_probabilities_are_those_of_the_figures() -> None:
    # So far apart, and so exactly known, that nothing is open but the order of trials 2 and 3, which are alike.
    rows = [make_row(0, 0.50, 2.0, "bare"), make_row(1, 0.40, 3.0), make_row(2, 0.90, 2.6), make_row(3, 0.90, 2.6)]
    found = with_probabilities([known(row, 0.001) for row in rows])
    assert [row.front_probability for row in found[:2]] == [1.0, 0.0]
    # Of two that are alike, one dominates the other half the time, and both are on the front the other half.
    assert found[2].front_probability == pytest.approx(0.75, abs=0.05)
    assert found[3].front_probability == pytest.approx(0.75, abs=0.05)
    assert with_probabilities([known(row, 0.001) for row in rows]) == found


def test_luck_makes_a_member_less_probable() -> None:
    rows = [known(make_row(k, 0.80 + 0.01 * (k % 5), 2.0 + k / 10), 0.02) for k in range(10)]
    rows.append(known(make_row(10, 0.87, 2.95), 0.02))
    confirmed = [*rows[:10], known(make_row(10, 0.87, 2.95), 0.02, seeds=4)]
    lucky, sure = (with_probabilities(each)[10].front_probability for each in (rows, confirmed))
    assert lucky < sure


def test_noise_that_is_hardly_known_makes_less_certain() -> None:
    rows = [known(make_row(0, 0.80, 2.0, "bare"), 0.01), known(make_row(1, 0.78, 2.5), 0.01)]
    few = [dataclasses.replace(row, seed_degrees=1) for row in rows]
    sure, unsure = (with_probabilities(each, draws=20_000)[1].front_probability for each in (rows, few))
    assert sure is not None
    assert unsure is not None
    # The difference of two means, over the noise: Student's t with as many degrees of freedom.
    assert sure == pytest.approx(stats.t.sf(2 / 2**0.5, 20), abs=0.01)
    assert unsure == pytest.approx(stats.t.sf(2 / 2**0.5, 1), abs=0.01)


def test_without_the_noise_of_the_seed_there_is_no_probability() -> None:
    rows = [make_row(0, 0.5, 2.0, "bare"), known(make_row(1, 0.6, 3.0), 0.01)]
    assert with_probabilities(rows) == rows
    assert with_probabilities([]) == []
