"""How the front grew: hand-computed cases, and the definitions, plainly, on random rows."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from rows import BARE_MS, make_row

from nas.front import Row, dominated_area
from nas.progress import accuracy_error, history, last_gain, reference_point


def random_rows(seed: int, count: int) -> list[Row]:
    """Rows of few distinct figures, so that ties are frequent, with gaps between the trials' numbers."""
    choose = random.Random(seed)
    rows = [
        make_row(3 * k, choose.randrange(10, 20) / 20, BARE_MS * (1 + choose.randrange(20) / 50), n=200)
        for k in range(count)
    ]
    if seed % 2:
        rows = [with_error(row, choose.choice((0.005, 0.02))) for row in rows]
    return rows


def at_ratio(trial: int, accuracy: float, ratio: float, control: str = "", error: float | None = None) -> Row:
    """A row whose ratio is uncertain by 1 %."""
    row = make_row(trial, accuracy, BARE_MS * ratio, control)
    return row if error is None else with_error(row, error)


def with_error(row: Row, error: float) -> Row:
    """The row with another standard error of its accuracy."""
    low, high = row.accuracy - 1.96 * error, row.accuracy + 1.96 * error
    return dataclasses.replace(row, accuracy_low=max(0.0, low), accuracy_high=min(1.0, high))


class TestHistory:
    def test_by_hand(self) -> None:
        # The front spans 0.3 and 2 ms, so the reference is 0.57 at 3.2 ms; trial 2 is dominated by trial 0.
        rows = [make_row(0, 0.8, 2.0), make_row(1, 0.6, 1.0), make_row(2, 0.7, 3.0), make_row(5, 0.9, 3.0)]
        assert reference_point(rows) == pytest.approx((0.57, 3.2))
        first = 0.23 * 1.2
        second = first + 0.03 * 1.0
        whole = second + 0.1 * 0.2
        trials, shares = zip(*history(rows), strict=True)
        assert trials == (0, 1, 2, 5)
        assert shares == pytest.approx((first / whole, second / whole, second / whole, 1))

    def test_of_nothing_and_of_one(self) -> None:
        assert history([]) == []
        assert history([make_row(4, 0.9, 2.0)]) == [(4, 1.0)]
        with pytest.raises(ValueError, match="at least one row"):
            reference_point([])

    @pytest.mark.parametrize("seed", range(20))
    def test_equals_the_definition_and_never_falls(self, seed: int) -> None:
        rows = random_rows(seed, 1 + 3 * seed)
        reference = reference_point(rows)
        areas = [
            dominated_area([(row.accuracy, row.latency_ms) for row in rows[: k + 1]], reference)
            for k in range(len(rows))
        ]
        trials, shares = zip(*history(rows), strict=True)
        assert trials == tuple(row.trial for row in rows)
        assert shares == pytest.approx([area / areas[-1] for area in areas])
        assert list(shares) == sorted(shares)
        assert shares[-1] == 1.0

    def test_rounding_does_not_make_it_fall(self) -> None:
        # Trial 1 is faster than trial 0 by the last bit: the sum over both is rounded to less than the one product.
        figures = ((0.9, 1.0), (0.76, math.nextafter(1.0, 0)), (0.976, 71.0), (0.533, 0.5))
        rows = [make_row(trial, *each) for trial, each in enumerate(figures)]
        points = [(row.accuracy, row.latency_ms) for row in rows]
        assert dominated_area(points[:2], reference_point(rows)) < dominated_area(points[:1], reference_point(rows))
        shares = [share for _, share in history(rows)]
        assert shares == sorted(shares)

    def test_is_by_trial_whatever_the_order_of_the_list(self) -> None:
        rows = random_rows(0, 40)
        assert len({share for _, share in history(rows)}) > 3
        shuffled = random.Random(1).sample(rows, len(rows))
        assert history(shuffled) == history(rows)

    def test_a_hopeless_architecture_changes_nothing(self) -> None:
        rows = random_rows(0, 40)
        assert history([*rows, make_row(999, 0.0, 1000.0)])[:-1] == history(rows)

    @pytest.mark.parametrize(
        ("figures", "reference"),
        [
            ([(0.9, 1.0), (0.5, 2.0)], (0.86, 1.1)),
            ([(0.9, 1.0), (0.9, 2.0)], (0.81, 1.1)),
            ([(0.9, 2.0), (0.9, 2.0)], (0.81, 2.2)),
            ([(0.0, 2.0)], (-0.1, 2.2)),
            ([(0.9, 2.0), (math.nextafter(0.9, 0), 2.0)], (0.81, 2.2)),
        ],
        ids=["one member", "equal in accuracy", "equal", "zero", "equal but for rounding"],
    )
    def test_a_front_without_extent_has_an_area(
        self, figures: list[tuple[float, float]], reference: tuple[float, float]
    ) -> None:
        rows = [make_row(trial, *each) for trial, each in enumerate(figures)]
        assert reference_point(rows) == pytest.approx(reference)
        assert history(rows)[-1] == (len(rows) - 1, 1.0)


class TestLastGain:
    def test_of_nothing_and_of_one(self) -> None:
        assert last_gain([]) is None
        assert last_gain([make_row(4, 0.1, 9.0)]) == 4

    def test_a_lucky_tenth_of_a_point_is_none(self) -> None:
        # On 1,000 images one standard error of a difference at 90 % is 1.3 points.
        assert last_gain([make_row(0, 0.9, 2.0), make_row(1, 0.901, 2.0)]) == 0
        assert last_gain([make_row(0, 0.9, 2.0), make_row(1, 0.912, 2.0)]) == 0
        assert last_gain([make_row(0, 0.9, 2.0), make_row(1, 0.915, 2.0)]) == 1

    def test_the_noise_of_the_seed_which_is_known_later_changes_nothing(self) -> None:
        for seed in range(20):
            rows = random_rows(seed, 30)
            known = [dataclasses.replace(row, seed_error=0.2, seed_degrees=5) for row in rows]
            assert last_gain(known) == last_gain(rows)

    def test_small_steps_add_up(self) -> None:
        steps = [0.900, 0.904, 0.908, 0.912, 0.916, 0.920, 0.924, 0.928, 0.932]
        rows = [make_row(trial, accuracy, 2.0) for trial, accuracy in enumerate(steps)]
        # Each is within 1.3 points of the one before; trial 4 is 1.6 points above trial 0, and trial 7 only 1.2 above
        # trial 4, against which trial 8 has 1.6.
        assert [last_gain(rows[: k + 1]) for k in range(len(rows))] == [0, 0, 0, 0, 4, 4, 4, 4, 8]

    def test_as_accurate_but_faster_is_one_only_beyond_the_interval_of_the_ratio(self) -> None:
        first = at_ratio(0, 0.9, 1.5)
        assert last_gain([first, at_ratio(1, 0.9, 1.49)]) == 0  # up to 1.505
        assert last_gain([first, at_ratio(1, 0.9, 1.48)]) == 1  # up to 1.495

    def test_slower_is_one_only_if_more_accurate_beyond_noise(self) -> None:
        first = at_ratio(0, 0.9, 1.1)
        assert last_gain([first, at_ratio(1, 0.95, 1.5)]) == 1
        assert last_gain([first, at_ratio(1, 0.91, 1.5)]) == 0
        assert last_gain([first, at_ratio(1, 0.8, 1.5)]) == 0

    def test_is_compared_with_those_at_most_as_slow_alone(self) -> None:
        ends = [at_ratio(0, 0.8, 1.0), at_ratio(1, 0.95, 2.0)]
        assert last_gain([*ends, at_ratio(2, 0.87, 1.5)]) == 2
        assert last_gain([*ends, at_ratio(2, 0.87, 2.5)]) == 1

    def test_the_ratio_of_the_bare_backbone_is_one(self) -> None:
        # The clock says 1.02 of a pass that is timed against itself.
        as_fast = at_ratio(1, 0.9, 1.0)
        assert last_gain([at_ratio(0, 0.9, 1.02, "bare"), as_fast]) == 0
        assert last_gain([at_ratio(0, 0.9, 1.02), as_fast]) == 1

    def test_of_equals_the_surest_is_compared_with(self) -> None:
        sure, unsure = at_ratio(0, 0.9, 1.2, error=0.001), at_ratio(1, 0.9, 1.2, error=0.05)
        third = at_ratio(2, 0.99, 1.3, error=0.001)  # makes both known
        last = at_ratio(3, 0.91, 1.2, error=0.001)
        assert last_gain([sure, unsure, third, last]) == 3
        swapped = [dataclasses.replace(unsure, trial=0), dataclasses.replace(sure, trial=1), third, last]
        assert last_gain(swapped) == 3

    def test_goes_by_trial_and_not_by_the_order_of_the_list(self) -> None:
        rows = [make_row(7, 0.95, 2.0), make_row(2, 0.9, 2.0), make_row(9, 0.951, 2.0)]
        assert last_gain(rows) == 7
        assert last_gain(rows[::-1]) == 7

    @pytest.mark.parametrize("seed", range(20))
    def test_equals_the_definition(self, seed: int) -> None:
        rows = random_rows(seed, 1 + 3 * seed)
        gains = [0]
        for k in range(1, len(rows)):
            fast = [row for row in rows[: gains[-1] + 1] if row.latency_ratio <= rows[k].ratio_high]
            best = min(fast, key=lambda row: (-row.accuracy, accuracy_error(row)), default=None)
            step = rows[k].accuracy - best.accuracy if best else math.inf
            if best is None or step > math.sqrt(accuracy_error(rows[k]) ** 2 + accuracy_error(best) ** 2):
                gains.append(k)
        assert last_gain(random.Random(seed).sample(rows, len(rows))) == rows[gains[-1]].trial
        if seed > 5:
            assert 1 < len(gains) < len(rows)


def test_error_of_an_accuracy_is_the_standard_error() -> None:
    row = make_row(0, 0.9, 2.0, n=1000)
    assert accuracy_error(row) == pytest.approx(math.sqrt(0.9 * 0.1 / 1000), rel=0.01)
    assert accuracy_error(dataclasses.replace(row, seed_error=0.25)) == accuracy_error(row)
