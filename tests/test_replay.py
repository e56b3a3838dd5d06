"""Searches that look trainings up: what they see, what they pay, and that nothing is trained twice."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from attnbench import replay
from attnbench.replay import Coin, Table, conditional, ours, plain, slots, uniform
from attnbench.table import Part
from attnbench.worth import replay as searches
from made_table import (
    EPOCHS,
    RUNGS,
    run,
    the_part,
    the_space,
    the_table,
    with_failures,
    with_weak_controls,
)

from nas.architecture import NONE, Architecture
from nas.rungs import FEWEST, Rungs
from nas.space import ResolvedSpace


@pytest.fixture(scope="module")
def space() -> ResolvedSpace:
    return the_space()


@pytest.fixture(scope="module")
def part() -> Part:
    return the_part()


@pytest.fixture(scope="module")
def table() -> Table:
    return the_table()


class TestTable:
    def test_it_is_of_the_whole_space(self, table: Table) -> None:
        assert len(table.inside) == len(set(table.inside)) == table.space.size() == 1601
        assert table.seeds == [0, 1]
        assert table.bare in table.inside
        assert table.ratios[table.bare] == 1

    def test_one_of_another_space_is_refused(self, part: Part, space: ResolvedSpace) -> None:
        other = Part(dataclasses.replace(part.header, space="0" * 16), part.rows)
        with pytest.raises(ValueError, match="of another space"):
            Table(other, space)

    def test_one_with_gaps_is_refused_and_the_gaps_are_counted(self, part: Part, space: ResolvedSpace) -> None:
        lost = {row.architecture for row in part.rows[100:106]}
        rows = [row for row in part.rows if row.architecture not in lost]
        with pytest.raises(ValueError, match="lacks 3 of 1604 architectures"):
            Table(Part(part.header, rows), space)
        untimed = [dataclasses.replace(row, ratio=()) if row is part.rows[100] else row for row in part.rows]
        with pytest.raises(ValueError, match="lacks 1 of 1604"):
            Table(Part(part.header, untimed), space)

    def test_a_seed_counts_once_everything_was_trained_with_it(
        self, part: Part, space: ResolvedSpace, table: Table
    ) -> None:
        for key in (table.inside[-1], table.controls[-1]):
            rows = [row for row in part.rows if (row.architecture, row.seed) != (key, 1)]
            assert Table(Part(part.header, rows), space).seeds == [0]

    def test_the_truth_is_the_test_accuracy_of_the_other_seed(self, part: Part, table: Table) -> None:
        for row in part.rows[:200]:
            assert table.truth(row.architecture, 1 - row.seed)[0] == (row.test or 0) / 1000
            assert table.truth(row.architecture, row.seed)[1] == table.ratios[row.architecture]

    def test_of_several_other_seeds_it_is_the_mean(self, part: Part, space: ResolvedSpace) -> None:
        third = [dataclasses.replace(row, seed=2, test=500, ratio=()) for row in part.rows if row.seed == 0]
        table = Table(Part(part.header, [*part.rows, *third]), space)
        assert table.seeds == [0, 1, 2]
        key = table.inside[1]
        assert table.truth(key, 0)[0] == pytest.approx((table.tests[key, 1] + 0.5) / 2)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_front_is_what_nothing_dominates(self, table: Table, seed: int) -> None:
        accuracy, ratio = np.array([table.truth(key, seed) for key in table.inside]).T
        as_good = (accuracy[:, None] >= accuracy) & (ratio[:, None] <= ratio)
        better = (accuracy[:, None] > accuracy) | (ratio[:, None] < ratio)
        kept = ~(as_good & better).any(axis=0)
        front = table.front(seed)
        assert set(front) == {key for key, on in zip(table.inside, kept, strict=True) if on}
        assert 5 < len(front) < 100
        assert [table.ratios[key] for key in front] == sorted(table.ratios[key] for key in front)


class TestSlots:
    def test_they_reach_every_architecture_and_nothing_else(self, space: ResolvedSpace, table: Table) -> None:
        by_stage = space.by_stage("test_resnet")  # once, and not for each of thousands
        quick = SimpleNamespace(sites=space.sites, by_stage=lambda _: by_stage, most=space.most)
        found: dict[str, Architecture] = {}
        stages = [NONE, "1", "2", "3", "4"]
        for one, two in itertools.product(stages, stages):
            for first, second in itertools.product(range(16 if one != NONE else 1), range(16 if two != NONE else 1)):
                answers = {"stage of block 0": one, "setting of block 0": first}
                answers |= {"stage of block 1": two, "setting of block 1": second}
                architecture = slots(quick, optuna.trial.FixedTrial(answers))
                found[architecture.id] = architecture
        assert set(found) == set(table.inside)
        assert {len(architecture.placements) for architecture in found.values()} == {0, 1, 2}

    def test_stages_with_other_settings_than_the_rest_are_refused(self, space: ResolvedSpace) -> None:
        first, *others = space.by_stage("test_resnet")
        uneven = SimpleNamespace(sites=space.sites, by_stage=lambda _: [first[:-1], *others], most=space.most)
        with pytest.raises(ValueError, match="as many settings at each stage"):
            slots(uneven, optuna.trial.FixedTrial({}))

    def test_of_two_at_one_stage_the_first_stands(self, space: ResolvedSpace) -> None:
        answers = {"stage of block 0": "2", "setting of block 0": 3, "stage of block 1": "2", "setting of block 1": 5}
        architecture = slots(space, optuna.trial.FixedTrial(answers))
        assert architecture.placements == (space.by_stage("test_resnet")[1][3],)


class TestReplay:
    @pytest.mark.parametrize(
        "searcher",
        [ours(), ours("random"), uniform, ours("random", RUNGS), plain("nsga2", slots)],
        ids=["ours", "random", "uniform", "rungs", "plain"],
    )
    def test_it_is_a_function_of_the_seeds_and_keeps_to_the_cost(self, table: Table, searcher: replay.Searcher) -> None:
        first, again, other = (run(table, searcher, 10, number) for number in (3, 3, 5))
        assert first.trials == again.trials != other.trials
        assert np.array_equal(first.area[0], again.area[0])
        assert np.array_equal(first.regret[0], again.regret[0])
        assert first.seeds == [1]
        (trials,), (spent,) = first.trials, first.spent
        assert list(spent) == list(np.cumsum([trial.epochs for trial in trials]))
        assert 9 * EPOCHS < spent[-1] <= 10 * EPOCHS
        for trial in trials:
            curve = table.curves[trial.architecture, 1]
            assert trial.accuracy == (curve[-1] if curve and not trial.stopped else None)

    @pytest.mark.parametrize("searcher", [ours(), ours("random"), uniform], ids=["ours", "random", "uniform"])
    def test_nothing_is_trained_twice(self, table: Table, searcher: replay.Searcher) -> None:
        found = run(table, searcher, 20)
        assert found.duplicates(math.inf) == 0
        assert len({trial.architecture for trial in found.trials[0]}) == len(found.trials[0]) == 20

    def test_our_controls_come_first(self, table: Table) -> None:
        trials = run(table, ours(), 6).trials[0]
        assert [trial.architecture for trial in trials[:4]] == table.controls
        assert all(trial.architecture in table.inside for trial in trials[4:])

    def test_uniform_goes_through_all(self, table: Table) -> None:
        trials = list(uniform(table, 0, 0))
        assert {trial.architecture for trial in trials} == set(table.inside)
        assert len(trials) == 1601
        failed = [trial for trial in trials if trial.accuracy is None]
        assert len(failed) == 17
        assert {trial.epochs for trial in failed} == {EPOCHS}

    @pytest.mark.parametrize(
        "searcher",
        [ours(), ours("random", RUNGS), uniform, plain("nsga2", slots), plain("tpe", conditional)],
        ids=["ours", "rungs", "uniform", "nsga2", "tpe"],
    )
    def test_what_failed_is_paid_and_not_handed_over(self, table: Table, searcher: replay.Searcher) -> None:
        found = run(with_failures(table), searcher, 12)
        trials = [trial for trial in found.trials[0] if trial.architecture not in table.controls]
        assert len(trials) >= 8
        assert all(trial.epochs == EPOCHS and trial.accuracy is None and not trial.stopped for trial in trials)
        assert not found.area[0].any()

    def test_each_half_sees_one_seed(self, table: Table) -> None:
        found = searches(table, "uniform", uniform, 3, 10, 2)
        assert found.seeds == [0, 1, 0]
        assert [len(trials) for trials in found.trials] == [2, 2, 2]


class TestRungs:
    def test_what_was_stopped_cost_its_rung_and_has_no_accuracy(self, table: Table) -> None:
        found = run(table, ours("random", RUNGS), 25)
        trials = found.trials[0]
        stopped = [number for number, trial in enumerate(trials) if trial.stopped]
        assert len(stopped) > 5
        assert min(stopped) >= FEWEST
        for number, trial in enumerate(trials):
            if not trial.stopped:
                assert trial.epochs == EPOCHS
                continue
            curve = table.curves[trial.architecture, 0]
            assert trial.accuracy is None
            assert trial.epochs in (1, 3)
            rivals = [
                table.curves[other.architecture, 0][trial.epochs - 1]
                for other in trials[:number]
                if not other.stopped and table.ratios[other.architecture] <= table.ratios[trial.architecture]
                if table.curves[other.architecture, 0]
            ]
            assert curve[trial.epochs - 1] < max(rivals)
            assert found.area[0][number] == found.area[0][number - 1]
        assert len(trials) > 25

    def test_without_risk_there_are_none(self, table: Table) -> None:
        careful = ours("random", Rungs(epochs=(1, 3), risk=0))
        assert run(table, careful, 15).trials == run(table, ours("random"), 15).trials

    def test_a_coin_stops_whatever_the_curve_says_but_the_first(self, table: Table) -> None:
        trials = run(table, ours("random", coin=Coin(rung=1, share=1.0)), 9).trials[0]
        assert [trial.epochs for trial in trials] == [EPOCHS] * FEWEST + [1] * EPOCHS
        assert all(trial.accuracy is None for trial in trials[FEWEST:])
        never = run(table, ours("random", coin=Coin(rung=1, share=0.0)), 15)
        assert never.trials == run(table, ours("random"), 15).trials

    def test_ours_takes_up_again_what_promises_most_and_pays_the_rest(self, table: Table) -> None:
        resumed = []
        for searcher in (ours(rungs=Rungs(epochs=(4,))), ours(coin=Coin(rung=4, share=0.9))):
            found = run(with_weak_controls(table), searcher, 25)
            begun: dict[str, replay.Trial] = {}
            for trial in found.trials[0]:
                assert trial.resumed == (trial.architecture in begun)
                if trial.resumed:
                    assert begun[trial.architecture].stopped
                    assert (trial.epochs, trial.stopped) == (EPOCHS - 4, False)
                    assert trial.accuracy == table.curves[trial.architecture, 0][-1]
                else:
                    assert trial.epochs == (4 if trial.stopped else EPOCHS)
                assert not trial.duplicate
                begun[trial.architecture] = trial
            again = sum(trial.resumed for trial in found.trials[0])
            resumed.append(again)
            assert len(begun) == len(found.trials[0]) - again > 25
            assert sum(trial.stopped for trial in found.trials[0]) > again
            assert list(found.spent[0]) == list(np.cumsum([trial.epochs for trial in found.trials[0]]))
        assert resumed[1] > 2  # the coin stops good ones, too


def either(space: ResolvedSpace, trial: optuna.Trial) -> Architecture:
    """The first architecture with a block, or the second."""
    first, second = space.by_stage("test_resnet")[0][:2]
    return Architecture(
        backbone="test_resnet", placements=(first if trial.suggest_categorical("which", [0, 1]) else second,)
    )


class TestPlain:
    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    @pytest.mark.parametrize("encoding", [slots, conditional])
    def test_both_encodings_stay_in_the_space(self, table: Table, sampler: str, encoding: replay.Encoding) -> None:
        found = run(table, plain(sampler, encoding), 14)
        trials = found.trials[0]
        assert {trial.architecture for trial in trials} <= set(table.inside)
        assert found.duplicates(math.inf) == 14 - len({trial.architecture for trial in trials})

    def test_what_it_trains_again_may_be_left_out_of_the_cost(self, table: Table) -> None:
        found = searches(table, "plain", plain("random", slots), 1, 0, 12, 12)
        assert 11 * EPOCHS < found.distinct[0][-1] <= 12 * EPOCHS or len(found.trials[0]) >= 12
        assert len({trial.architecture for trial in found.trials[0]}) * EPOCHS == found.distinct[0][-1]
        endless = searches(table, "plain", plain("random", either), 1, 0, 6, 6)
        assert len(endless.trials[0]) == 4 * 6
        assert endless.distinct[0][-1] == 2 * EPOCHS

    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    def test_duplicates_are_counted_and_paid(self, table: Table, sampler: str) -> None:
        found = run(table, plain(sampler, either), 7)
        assert found.duplicates(math.inf) == 5
        assert found.duplicates(EPOCHS) == 0
        assert list(found.spent[0]) == [EPOCHS * number for number in range(1, 8)]
        assert found.distinct[0][-1] == 2 * EPOCHS
        assert found.at(2 * EPOCHS, again_is_free=True) == found.area[0][-1]
        first = found.trials[0][0]
        again = [trial for trial in found.trials[0][1:] if trial.architecture == first.architecture]
        assert all(trial == dataclasses.replace(first, duplicate=True) for trial in again)
