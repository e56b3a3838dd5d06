"""What searches on a table are worth, and the figures about them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from attnbench.replay import Table, Trial, uniform
from attnbench.worth import COST, LONGEST, Judge, cost_factor, entering, interval, joined, replay, wrong_stops
from made_table import (
    EPOCHS,
    steps,
    the_table,
    tiny,
)
from scipy import stats


@pytest.fixture(scope="module")
def table() -> Table:
    return the_table()


class TestJudge:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_true_front_is_all_that_can_be_had(self, table: Table, seed: int) -> None:
        front = table.front(seed)
        seen = {key: table.truth(key, seed)[0] for key in front}
        assert Judge(table, seed)(seen) == (pytest.approx(1), pytest.approx(0))
        seen = {key: table.truth(key, seed)[0] for key in table.inside}
        assert Judge(table, seed)(seen) == (pytest.approx(1), pytest.approx(0))
        for key in front[len(front) // 2 :]:
            del seen[key]
        area, regret = Judge(table, seed)(seen)
        assert 0 < area < 1
        assert regret > 0

    def test_the_bare_backbone_alone_is_worth_nothing(self, table: Table) -> None:
        area, regret = Judge(table, 0)({table.bare: 0.8})
        assert area == 0
        assert regret > 1

    def test_nothing_is_worth_more_than_everything(self, table: Table) -> None:
        generator = np.random.default_rng(1)
        for seed, count in itertools.product((0, 1), (1, 5, 50, 500)):
            keys = [*table.controls, *generator.choice(table.inside, count)]
            area, regret = Judge(table, seed)({key: generator.random() for key in keys})
            assert 0 <= area <= 1 + 1e-12
            assert regret >= -1e-9

    def test_controls_that_the_space_lacks_are_not_handed_over(self, table: Table) -> None:
        outside = {key: table.curves[key, 0][-1] for key in table.controls if key not in table.inside}
        assert len(outside) == 3
        seen = {key: table.curves[key, 0][-1] for key in table.inside[1:60] if table.curves[key, 0]}
        judge = Judge(table, 0)
        assert judge(seen | outside) == judge(seen)
        assert judge(outside) == judge({table.bare: 0.8})

    def test_by_hand(self) -> None:
        # front: bare, the second and the fourth; the third looks best, and is not
        table, keys = tiny([(1.0, 0.5, 0.5), (1.25, 0.6, 0.6), (1.5, 0.9, 0.55), (2.0, 0.7, 0.8)])
        assert table.front(0) == [keys[0], keys[1], keys[3]]
        judge = Judge(table, 0)
        assert judge.reference == (0.5, 2.0)
        # whole area: 0.1 x 0.75, and nothing of the fourth, which is as slow as the reference
        seen = {key: table.curves[key, 0][-1] for key in keys}
        area, regret = judge({key: seen[key] for key in keys[:2]})
        assert area == pytest.approx(1)
        assert regret == pytest.approx(100 * 0.2 / 100)  # the last of the hundred limits alone allows the fourth
        area, regret = judge({keys[2]: seen[keys[2]]})
        assert area == pytest.approx(0.05 * 0.5 / (0.1 * 0.75))
        # limits 1 + k / 99: k = 25 ... 49 lie in 1.25 ... 1.5, k = 50 ... 98 above that, k = 99 is 2
        assert regret == pytest.approx((25 * 10 + 49 * 5 + 25) / 100)
        area, regret = judge(seen)  # the third takes the fourth's place
        assert area == pytest.approx(1)
        assert regret == pytest.approx((49 * 5 + 25) / 100)

    def test_what_looks_worse_than_the_bare_backbone_is_not_handed_over(self) -> None:
        table, keys = tiny([(1.0, 0.5, 0.5), (1.25, 0.4, 0.6), (1.5, 0.9, 0.55), (2.0, 0.7, 0.8)])
        judge = Judge(table, 0)
        assert judge({keys[1]: 0.4}) == judge({keys[0]: 0.5}) == judge({keys[0]: 0.5, keys[1]: 0.4})

    def test_a_bare_backbone_that_looks_worse_than_a_faster_one_is_not_chosen(self) -> None:
        table, keys = tiny([(1.0, 0.5, 0.5), (0.75, 0.6, 0.6), (1.5, 0.2, 0.2), (2.0, 0.7, 0.8)])
        area, regret = Judge(table, 0)({keys[1]: 0.6, keys[3]: 0.7})
        assert area == pytest.approx(1)
        assert regret == pytest.approx(0)


def test_a_table_without_anything_better_than_the_bare_backbone_judges_nothing() -> None:
    table, _ = tiny([(1.0, 0.5, 0.5), (1.25, 0.4, 0.4), (1.5, 0.9, 0.45), (2.0, 0.7, 0.3)])
    with pytest.raises(ValueError, match="nothing in the table is better"):
        Judge(table, 0)


class TestFigures:
    def test_at_a_cost_what_was_paid_by_then_counts(self) -> None:
        found = steps(2, 3, count=3)
        assert list(found.at(2 * EPOCHS - 0.5)) == [0, 0]
        assert list(found.at(2 * EPOCHS)) == [1, 0]
        assert list(found.at(2 * EPOCHS, "regret")) == [0, 1]
        assert list(found.at(99 * EPOCHS)) == [1, 1]
        assert list(found.at(EPOCHS - 1)) == [0, 0]
        assert np.isnan(found.at(EPOCHS - 1, "regret")).all()
        assert [len(row) for row in found.within(2 * EPOCHS)] == [2, 2]
        assert [len(row) for row in found.within(2 * EPOCHS - 0.5)] == [1, 1]

    def test_what_is_saved_is_the_share_at_which_it_gets_there(self) -> None:
        whole, quick = steps(30, 30, count=COST), steps(20, 20, count=COST)
        assert cost_factor(whole, quick, EPOCHS, longest=COST) == (0.4, 0.4, 0.4)
        assert cost_factor(whole, whole, EPOCHS, longest=COST) == (0.6, 0.6, 0.6)
        assert cost_factor(whole, steps(60, 70), EPOCHS, longest=COST)[0] == math.inf

    def test_the_factor_is_the_cost_at_which_another_gets_there(self) -> None:
        mine = steps(COST, COST)
        assert cost_factor(mine, steps(3 * COST, 3 * COST), EPOCHS) == (3.0, 3.0, 3.0)
        assert cost_factor(mine, steps(3 * COST + 1, 3 * COST), EPOCHS)[0] == 3.02
        assert cost_factor(mine, mine, EPOCHS) == (1.0, 1.0, 1.0)
        assert cost_factor(mine, steps(LONGEST + 1, LONGEST + 1), EPOCHS) == (math.inf,) * 3

    def test_its_interval_is_that_of_the_searches(self) -> None:
        assert cost_factor(steps(1, 1), steps(COST, 4 * COST), EPOCHS) == (4.0, 1.0, 4.0)
        assert cost_factor(steps(1, 1), steps(COST, LONGEST + 1), EPOCHS) == (math.inf, 1.0, math.inf)

    def test_an_interval_is_that_of_student(self) -> None:
        values = np.array([0.2, 0.5, 0.3, 0.9])
        mean, half = interval(values)
        low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
        assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
        assert interval(np.array([1.0, 2.0, 3.0])) == (pytest.approx(2), pytest.approx(4.302653 / math.sqrt(3)))
        assert math.isnan(interval(np.array([1.0]))[1])

    def test_searches_in_parts_are_those_in_one(self, table: Table) -> None:
        whole = replay(table, "uniform", uniform, 3, 10, 4)
        parts = [replay(table, "uniform", uniform, count, first, 4) for count, first in ((2, 10), (1, 12))]
        together = joined(parts)
        assert (together.name, together.trials, together.seeds) == (whole.name, whole.trials, whole.seeds)
        for name in ("spent", "area", "regret"):
            assert np.array_equal(np.array(getattr(together, name)), np.array(getattr(whole, name)))

    def test_wrong_stops_are_those_on_a_front(self) -> None:
        table, keys = tiny([(1.0, 0.5, 0.5), (1.25, 0.6, 0.6), (1.5, 0.9, 0.55), (2.0, 0.7, 0.8)])
        stopped = [False, True, True, False]
        trials = [Trial(key, 1, None if each else 0.5, stopped=each) for key, each in zip(keys, stopped, strict=True)]
        # The true front is the first, the second and the fourth; by what the search sees it is the first three.
        assert wrong_stops(table, trials, 0, own=False) == (2, 3, 1)
        assert wrong_stops(table, trials, 0, own=True) == (2, 3, 2)
        assert wrong_stops(table, trials[:2], 0, own=False) == (1, 2, 1)

    def test_one_that_was_taken_up_again_was_not_stopped_wrongly(self) -> None:
        table, keys = tiny([(1.0, 0.5, 0.5), (1.25, 0.6, 0.6), (1.5, 0.9, 0.55), (2.0, 0.7, 0.8)])
        trials = [Trial(key, 1, None, stopped=True) for key in keys]
        trials += [Trial(keys[1], 1, 0.6, resumed=True), Trial(keys[3], 1, 0.7, resumed=True)]
        assert wrong_stops(table, trials, 0, own=False) == (2, 3, 1)

    def test_what_enters_the_front(self) -> None:
        figures = {
            "a": (0.5, 1.0),
            "b": (0.4, 2.0),
            "c": (0.6, 2.0),
            "d": (None, 0.5),
            "e": (0.5, 0.9),
            "f": (0.55, 1.5),
        }
        trials = [Trial(key, EPOCHS, accuracy) for key, (accuracy, _) in figures.items()]
        found = entering(trials, {key: ratio for key, (_, ratio) in figures.items()})
        assert found == [True, False, True, False, True, True]
