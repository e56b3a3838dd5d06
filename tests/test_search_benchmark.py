"""Searches on a table whose every figure is known: what they pay, what they hand over, how they are judged."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import toy
from scipy import stats

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import search  # noqa: E402
from attnbench import replay  # noqa: E402
from attnbench.replay import Coin, Table, Trial, conditional, ours, plain, slots, uniform  # noqa: E402
from attnbench.table import Header, Part, Training, pack  # noqa: E402
from search import COST, LONGEST, Judge, Searches, cost_factor, interval  # noqa: E402

from nas.architecture import NONE, Architecture  # noqa: E402
from nas.rungs import FEWEST, Rungs  # noqa: E402
from nas.space import ResolvedSpace, SearchSpace  # noqa: E402

EPOCHS, IMAGES = 9, {"train": 100, "val": 500, "test": 1000}
RUNGS = Rungs(epochs=(1, 3), risk=0.3)


def make_part(resolved: ResolvedSpace) -> Part:
    """Return two trainings of every architecture: accuracies and latencies are sums of what each placement brings."""
    generator = np.random.default_rng(0)
    brought = {
        placement: (generator.uniform(-0.02, 0.06), generator.uniform(0.01, 0.1))
        for placements in resolved.by_stage("test_resnet")
        for placement in placements
    }
    inside = {architecture.id: architecture for architecture in resolved.enumerate()}
    everything = inside | {control.architecture.id: control.architecture for control in resolved.controls()}
    rows = []
    for number, (key, architecture) in enumerate(everything.items()):
        if key in inside:
            gain, cost = np.sum([brought[each] for each in architecture.placements] or [(0.0, 0.0)], axis=0)
        else:
            gain, cost = 0.19, 0.005  # better and faster than all that a search can find
        for seed in (0, 1):
            noise = generator.normal(0, 0.004, size=2) if architecture.placements else (0.0, 0.0)
            end = 0.8 + gain + noise[0]
            curve = tuple(round(500 * end * (1 - 0.5 * math.exp(-epoch))) for epoch in range(EPOCHS - 1))
            found = {"curve": (*curve, round(500 * end)), "test": round(1000 * (0.8 + gain + noise[1]))}
            if number % 97 == 13 and key in inside:
                found = {"failure": "non-finite loss in epoch 2"}
            ratio = (1 + cost, cost, 2 + cost)
            timed = {"ratio": ratio, "bare_ms": 0.5, "nominal_ms": 1 + 0.9 * cost} if seed == 0 else {}
            rows.append(Training(key, seed, "one", **found, **timed))
    header = Header(protocol={"epochs": EPOCHS}, space=resolved.hash, images=IMAGES, machines=["one"])
    return Part(header, rows)


@pytest.fixture(scope="module")
def space() -> ResolvedSpace:
    return replay.resolve()


@pytest.fixture(scope="module")
def part(space: ResolvedSpace) -> Part:
    return make_part(space)


@pytest.fixture(scope="module")
def table(part: Part, space: ResolvedSpace) -> Table:
    return Table(part, space)


def run(table: Table, searcher: replay.Searcher, cost: int, number: int = 0) -> Searches:
    return search.replay(table, "one", searcher, 1, number, cost)


def with_failures(table: Table) -> Table:
    """Return a table of which nothing but the controls can be trained."""
    failing = copy.copy(table)
    failing.curves = {key: curve if key[0] in table.controls else () for key, curve in table.curves.items()}
    return failing


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

    def test_of_two_at_one_stage_the_first_stands(self, space: ResolvedSpace) -> None:
        answers = {"stage of block 0": "2", "setting of block 0": 3, "stage of block 1": "2", "setting of block 1": 5}
        architecture = slots(space, optuna.trial.FixedTrial(answers))
        assert architecture.placements == (space.by_stage("test_resnet")[1][3],)


def tiny(figures: list[tuple[float, float, float]]) -> tuple[Table, list[str]]:
    """Return a table of four architectures of given latency, validation and test accuracy, and their ids.

    The first of them is the bare backbone.
    """
    blocks = {"se": {"reduction": (4, 8, 16)}}
    resolved = SearchSpace(backbones=("toy",), blocks=blocks, stages=(3,)).resolve({"toy": toy.STAGES})
    inside = [architecture.id for architecture in resolved.enumerate()]
    assert len(inside) == 4
    keys = [*inside, *(each.architecture.id for each in resolved.controls() if each.architecture.id not in inside)]
    rows = []
    for key, (ratio, seen, true) in itertools.zip_longest(keys, figures, fillvalue=(1.0, 0.99, 0.99)):
        for seed in (0, 1):
            timed = {"ratio": (ratio, 0.9, 2.0), "nominal_ms": ratio} if seed == 0 else {}
            rows.append(Training(key, seed, "one", (round(500 * seen),), test=round(1000 * true), **timed))
    header = Header(protocol={"epochs": 1}, space=resolved.hash, images=IMAGES, machines=["one"])
    return Table(Part(header, rows), resolved), inside


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
        assert found.duplicates == 0
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
        found = search.replay(table, "uniform", uniform, 3, 10, 2)
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

    def test_our_sampler_is_told_of_them(self, table: Table) -> None:
        trials = run(table, ours(coin=Coin(rung=1, share=1.0)), 9).trials[0]
        assert len({trial.architecture for trial in trials}) == len(trials) == FEWEST + EPOCHS

    def test_the_coin_is_like_the_rungs(self, table: Table) -> None:
        ruled = run(table, ours("random", RUNGS), 25)
        coin = search.coin_like(ruled)
        later = ruled.trials[0][FEWEST : search.COST]
        assert coin.share == sum(trial.stopped for trial in later) / len(later)
        assert coin.rung in (1, 3)


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
        assert found.duplicates == 14 - len({trial.architecture for trial in trials})

    @pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
    def test_duplicates_are_counted_and_paid(self, table: Table, sampler: str) -> None:
        found = run(table, plain(sampler, either), 7)
        assert found.duplicates == 5
        assert list(found.spent[0]) == [EPOCHS * number for number in range(1, 8)]
        first = found.trials[0][0]
        again = [trial for trial in found.trials[0][1:] if trial.architecture == first.architecture]
        assert all(trial == dataclasses.replace(first, duplicate=True) for trial in again)


def steps(*reached: float, count: int = LONGEST) -> Searches:
    """Return searches of ``count`` trainings whose area is 1 from a given training on, and 0 before."""
    numbers = np.arange(1.0, count + 1)
    area = [(numbers >= one).astype(float) for one in reached]
    spent = [EPOCHS * numbers for _ in reached]
    trials = [[Trial("a", EPOCHS, 0.5)] * count for _ in reached]
    return Searches("steps", spent, area, [1 - each for each in area], trials, [0] * len(reached))


class TestFigures:
    def test_at_a_cost_what_was_paid_by_then_counts(self) -> None:
        found = steps(2, 3, count=3)
        assert list(found.at(2 * EPOCHS - 0.5)) == [0, 0]
        assert list(found.at(2 * EPOCHS)) == [1, 0]
        assert list(found.at(2 * EPOCHS, "regret")) == [0, 1]
        assert list(found.at(99 * EPOCHS)) == [1, 1]
        assert list(found.at(EPOCHS - 1)) == [0, 0]
        assert np.isnan(found.at(EPOCHS - 1, "regret")).all()
        assert list(found.after(2)) == [1, 0]
        assert list(found.after(99)) == [1, 1]

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


class TestMain:
    @pytest.fixture
    def costs(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
        """Shorten all searches, and note how long each kind goes on."""
        found: dict[str, int] = {}
        whole = search.replay

        def noted(table: Table, name: str, searcher: replay.Searcher, *numbers: int) -> Searches:
            found[name] = numbers[-1]
            return whole(table, name, searcher, *numbers[:2], min(12, numbers[-1]))

        monkeypatch.setattr(search, "replay", noted)
        monkeypatch.setattr(search, "COST", 6)
        return found

    def call(self, monkeypatch: pytest.MonkeyPatch, table: Table, *arguments: str) -> None:
        monkeypatch.setattr(Table, "load", lambda *_: table)
        monkeypatch.setattr(sys, "argv", ["search.py", "--searches", "2", *arguments])
        search.main()

    def test_what_is_said_of_random_search_was_searched_for_so_long(
        self,
        table: Table,
        costs: dict[str, int],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        page = tmp_path / "search.html"
        self.call(monkeypatch, table, "--only", "ours,random,uniform", "--rungs", "1,3", "--plot", str(page))
        printed = capsys.readouterr().out
        told = [line.split(" reaches")[0] for line in printed.splitlines() if " reaches the area of ours" in line]
        assert told == ["uniform random", "random (stages first)"]
        assert all(costs[name] == LONGEST for name in told)
        assert (costs["ours"], costs["ours with rungs"], costs["ours with a coin"]) == (12, 6, 6)
        assert "wrong stops" in printed
        assert page.stat().st_size > 10_000

    def test_a_kind_that_there_is_not_is_refused(
        self, table: Table, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            self.call(monkeypatch, table, "--only", "theirs")
        assert "beginnings of: ours; uniform random" in capsys.readouterr().err

    def test_a_packed_table_is_read(self, part: Part, table: Table, tmp_path: Path) -> None:
        pack([part], tmp_path / "all.tsv.gz")
        loaded = Table.load(tmp_path / "all.tsv.gz")
        assert (loaded.curves, loaded.tests, loaded.seeds) == (table.curves, table.tests, table.seeds)
        assert loaded.ratios == pytest.approx(table.ratios, abs=1e-5)
