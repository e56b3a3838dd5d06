"""The paired difference: the interval of one seed against the literature, that of several against simulations."""

from __future__ import annotations

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


@pytest.mark.parametrize("of_seed", [0.0, 0.3])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_holds_as_often_as_it_says(seeds: int, of_seed: float) -> None:
    if seeds == 1:
        of_seed = 0.0  # one seed does not tell about others, and does not say so
    rng = np.random.default_rng(seeds)
    images, rounds, effect, held = 300, 300, 0.4, 0

    def right(shift: float, ease: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[list[bool]]:
        logits = ease[None, :] + shift + of_seed * rng.standard_normal((seeds, 1))
        return [list(row) for row in rng.random((seeds, len(ease))) < 1 / (1 + np.exp(-logits))]

    many = 1.0 + 1.5 * rng.standard_normal((400, 4000))
    drawn = [1 / (1 + np.exp(-(many + shift + of_seed * rng.standard_normal((400, 1))))) for shift in (effect, 0.0)]
    truth = float((drawn[0] - drawn[1]).mean())
    for _ in range(rounds):
        ease = 1.0 + 1.5 * rng.standard_normal(images)
        found = compare(right(effect, ease), right(0.0, ease))
        held += found.low <= truth <= found.high
    assert 0.91 <= held / rounds <= 0.995


def test_the_sentence_says_whether_it_is_noise() -> None:
    nothing = compare([[True] * 90 + [False] * 10], [[True] * 88 + [False] * 12])
    assert "within noise" in nothing.sentence()
    assert "+2.00 points [" in nothing.sentence()
    assert "--seeds 3" in nothing.sentence()
    much = compare([[True] * 90 + [False] * 10] * 3, [[True] * 50 + [False] * 50] * 3)
    assert "The blocks raise the accuracy beyond noise" in much.sentence()
    less = compare([[True] * 50 + [False] * 50], [[True] * 90 + [False] * 10])
    assert "The blocks lower the accuracy beyond what the choice of test images explains" in less.sentence()
