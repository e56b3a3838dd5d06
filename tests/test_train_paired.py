"""The paired difference: the interval of one seed against the literature, that of several against simulations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas.train.paired import compare, newcombe


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # D. G. Altman et al., "Statistics with confidence", 2000, table 6.2
        ((14, 5, 0, 22), 0.011, 0.226),
        # M. W. Fagerland et al., "Recommended tests and confidence intervals for paired binomial proportions",
        # Statistics in Medicine 33 (2014): airway hyper-responsiveness before and after stem cell transplantation
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_the_interval_is_that_of_the_literature(table: tuple[int, int, int, int], low: float, high: float) -> None:
    assert newcombe(*table) == pytest.approx((low, high), abs=5e-4)


def test_the_interval_turns_with_the_roles() -> None:
    low, high = newcombe(30, 7, 3, 10)
    assert newcombe(30, 3, 7, 10) == pytest.approx((-high, -low))


def test_two_networks_that_agree_still_have_an_interval() -> None:
    found = compare([[True] * 50], [[True] * 50])
    assert found.difference == 0
    assert found.low < 0 < found.high
    assert found.within_noise
    assert compare([[True] * 50] * 3, [[True] * 50] * 3).within_noise


def test_pairs_tell_more_than_two_accuracies_do() -> None:
    # The same two accuracies, 0.80 and 0.75: on the same images mostly, or on different ones.
    agreeing, apart = newcombe(150, 10, 0, 40), newcombe(110, 50, 40, 0)
    assert agreeing[0] > 0 > apart[0]


def test_the_counts_are_of_images() -> None:
    found = compare([[True, True, False, False, True]], [[True, False, True, False, False]])
    assert (found.only_first, found.only_second, found.images, found.seeds) == (2, 1, 5, 1)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == newcombe(1, 2, 1, 1)


def test_what_is_not_paired_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the same images and seeds, but got \(1, 2\) and \(1, 3\)"):
        compare([[True, False]], [[True, False, True]])


Shares = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@pytest.mark.parametrize(
    ("seeds", "of_seed", "rounds"),
    [(1, 0.0, 300), (2, 0.0, 300), (2, 0.2, 1500), (2, 0.4, 1500), (3, 0.0, 300), (3, 0.3, 1000), (5, 0.3, 1000)],
)
def test_the_interval_holds_as_often_as_it_says(seeds: int, of_seed: float, rounds: int) -> None:
    # One seed is drawn without an effect: it does not tell about others, and does not say so.
    rng = np.random.default_rng(seeds)
    images, effect, held = 300, 0.4, 0

    def chances(shift: float, ease: Shares, effects: Shares) -> Shares:
        found: Shares = 1 / (1 + np.exp(-(ease + shift + of_seed * effects)))
        return found

    def right(shift: float, ease: Shares) -> Any:
        return rng.random((seeds, images)) < chances(shift, ease[None, :], rng.standard_normal((seeds, 1)))

    many, effects = 1.0 + 1.5 * rng.standard_normal(1_000_000), rng.standard_normal(1_000_000)
    truth = float((chances(effect, many, effects) - chances(0.0, many, effects)).mean())
    for _ in range(rounds):
        ease = 1.0 + 1.5 * rng.standard_normal(images)
        found = compare(right(effect, ease), right(0.0, ease))
        held += found.low <= truth <= found.high
    # 95 % less two standard errors of the share; two seeds without an effect give an interval that is too wide.
    assert held / rounds >= 0.95 - 2 * (0.95 * 0.05 / rounds) ** 0.5
    if seeds != 2:
        assert held / rounds <= 0.995


def test_the_sentence_says_whether_it_is_noise() -> None:
    nothing = compare([[True] * 90 + [False] * 10], [[True] * 88 + [False] * 12])
    assert "within noise" in nothing.sentence()
    assert "+2.00 points [" in nothing.sentence()
    assert "--seeds 3" in nothing.sentence()
    assert "on the same 100 test images, one seed" in nothing.sentence()
    assert "on the same 1 test image, one seed" in compare([[True]], [[False]]).sentence()
    much = compare([[True] * 90 + [False] * 10] * 3, [[True] * 50 + [False] * 50] * 3)
    assert "The blocks raise the accuracy beyond noise" in much.sentence()
    less = compare([[True] * 50 + [False] * 50], [[True] * 90 + [False] * 10])
    assert "The blocks lower the accuracy beyond what the choice of test images explains" in less.sentence()


def test_the_sentence_claims_nothing_of_seeds_that_show_nothing() -> None:
    alike = compare([[True] * 90 + [False] * 10] * 2, [[True] * 90 + [False] * 10] * 2)
    assert (alike.low, alike.high) == newcombe(90, 0, 0, 10)
    assert alike.sentence().endswith(
        "the interval counts in the choice of images only: the two agree on each image in each seed, which does not "
        "show what other seeds do."
    )
    differ = compare([[True] * 90 + [False] * 10] * 2, [[True] * 89 + [False] * 11] * 2)
    assert differ.sentence().endswith("the interval counts in both the choice of images and the seeds.")


def test_two_seeds_that_differ_have_one_degree_of_freedom() -> None:
    # Seeds 10 and 20 points apart in their difference, on images that hardly vary: Student's t alone, 12.7 * 5 points.
    first = [[True] * 1000, [True] * 1000]
    second = [[index % 10 != 0 for index in range(1000)], [index % 5 != 0 for index in range(1000)]]
    found = compare(first, second)
    assert found.difference == pytest.approx(0.15)
    assert found.high - found.difference >= 12.706 * 0.05 - 1e-3
