"""Intervals of medians and of trimmed means: tabulated values, and how often they cover."""

from __future__ import annotations

import math
import random

import pytest

from nas.latency import median_interval
from nas.latency.interval import trimmed_mean_interval


@pytest.mark.parametrize(
    ("n", "rank"),
    # Ranks of the 95 % interval of the median for n samples, from published tables of the sign test.
    [(6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (15, 4), (20, 6), (25, 8), (30, 10), (40, 14), (50, 18), (100, 40)],
)
def test_the_interval_has_the_tabulated_ranks(n: int, rank: int) -> None:
    samples = list(range(1, n + 1))
    random.Random(0).shuffle(samples)
    assert median_interval(samples) == (rank, n + 1 - rank)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    dice = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval([dice.expovariate(1) for _ in range(30)])
        hits += low <= math.log(2) <= high
    assert 0.945 < hits / 2000 < 0.985  # 0.957 by the binomial distribution


def test_the_interval_of_few_samples_is_their_range() -> None:
    assert median_interval([3.0]) == (3.0, 3.0)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    with pytest.raises(ValueError, match="samples must not be empty"):
        median_interval([])


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([1.0, 2.0, 3.0], (2.0, 2 - 4.302653 / 0.6 / 3**0.5, 2 + 4.302653 / 0.6 / 3**0.5)),
        # g = 2 of 10 left out at either end, 3..8 kept; the winsorised deviation is that of 3 3 3 4 5 6 7 8 8 8
        (
            [0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 50.0, 99.0],
            (5.5, 5.5 - 2.570582 * 4.722222**0.5 / 0.6 / 10**0.5, 5.5 + 2.570582 * 4.722222**0.5 / 0.6 / 10**0.5),
        ),
    ],
)
def test_the_trimmed_mean_and_its_interval(rounds: list[float], expected: tuple[float, float, float]) -> None:
    assert trimmed_mean_interval(rounds) == pytest.approx(expected, rel=1e-6)
    assert trimmed_mean_interval(rounds[::-1]) == trimmed_mean_interval(rounds)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_interval_of_the_trimmed_mean_covers_as_often_as_it_says(share: float) -> None:
    dice = random.Random(0)
    hits = 0
    for _ in range(1000):
        rounds = [dice.gauss(0, 1) if dice.random() >= share else dice.choice((-30, 30)) for _ in range(24)]
        _, low, high = trimmed_mean_interval(rounds)
        hits += low <= 0 <= high
    assert 0.92 < hits / 1000 < 0.98


def test_two_rounds_have_no_interval() -> None:
    with pytest.raises(ValueError, match="an interval takes at least 3 rounds, but got 2"):
        trimmed_mean_interval([1.0, 2.0])
