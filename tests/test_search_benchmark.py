"""The comparison of searches: what is run for how long, and what is said about it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import search
from attnbench import replay
from attnbench.replay import Table, Trial, ours, plain, slots
from attnbench.table import Part, pack
from attnbench.worth import COST, LONGEST, Searches, entering, wrong_stops
from attnbench.worth import replay as replayed
from made_table import (
    EPOCHS,
    RUNGS,
    run,
    the_part,
    the_table,
)

from nas.rungs import FEWEST


@pytest.fixture(scope="module")
def part() -> Part:
    return the_part()


@pytest.fixture(scope="module")
def table() -> Table:
    return the_table()


class TestRungs:
    def test_the_coin_is_like_the_rungs(self, table: Table) -> None:
        ruled = run(table, ours("random", RUNGS), 25)
        coin = search.coin_like(ruled, 25 * EPOCHS)
        later = ruled.trials[0][FEWEST:]  # nothing is stopped before
        assert coin.share == sum(trial.stopped for trial in later) / len(later)
        assert coin.rung in (1, 3)


class TestMain:
    @pytest.fixture
    def costs(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
        """Shorten all searches, and note how long each kind goes on."""
        found: dict[str, int] = {}
        whole = search.replay

        def noted(table: Table, name: str, searcher: replay.Searcher, *numbers: int) -> Searches:
            found[name] = numbers[2]
            return whole(table, name, searcher, *numbers[:2], min(12, numbers[2]))

        monkeypatch.setattr(search, "replay", noted)
        monkeypatch.setattr(search, "COST", 6)
        return found

    def call(self, monkeypatch: pytest.MonkeyPatch, table: Table, *arguments: str) -> None:
        monkeypatch.setattr(Table, "load", lambda *_: table)
        monkeypatch.setattr(sys, "argv", ["search.py", "--searches", "2", "--workers", "1", *arguments])
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
        assert (costs["ours"], costs["ours, nothing stopped"], costs["ours with a coin"]) == (12, 12, 6)
        lines = [line.split("  ")[0] for line in printed.splitlines()]
        assert lines.count("ours") == 2  # compared with the others, and with itself without stopping
        assert lines.count("ours with a coin") == 1
        assert lines.count("random with rungs") == 2
        assert printed.count("an oracle") == 2
        assert page.stat().st_size > 10_000

    def test_a_kind_that_there_is_not_is_refused(
        self, table: Table, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="beginnings of: ours; ours, nothing stopped; uniform random"):
            self.call(monkeypatch, table, "--only", "theirs")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--rung", "9"], "rungs must lie before the end"),
            (["--rungs", "0"], "rungs must be epochs in ascending order"),
            (["--rungs", "9"], "rungs must lie before the end"),
            (["--rungs", "none"], "invalid literal"),
            (["--risk", "nan"], "the risk must be between"),
            (["--searches", "0"], "must be at least 1"),
            (["--workers", "0"], "must be at least 1"),
        ],
    )
    def test_what_makes_no_sense_is_refused_in_a_line(
        self, table: Table, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
    ) -> None:
        with pytest.raises(SystemExit, match=words):
            self.call(monkeypatch, table, *arguments)

    def test_half_a_file_is_refused_in_a_line(
        self, part: Part, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "all.tsv.gz"
        pack([part], path)
        path.write_bytes(path.read_bytes()[:1000])
        monkeypatch.setattr(sys, "argv", ["search.py", "--table", str(path)])
        with pytest.raises(SystemExit, match="search.py: "):
            search.main()

    def test_a_packed_table_is_read(self, part: Part, table: Table, tmp_path: Path) -> None:
        pack([part], tmp_path / "all.tsv.gz")
        loaded = Table.load(tmp_path / "all.tsv.gz")
        assert (loaded.curves, loaded.tests, loaded.seeds) == (table.curves, table.tests, table.seeds)
        assert loaded.ratios == pytest.approx(table.ratios, abs=1e-5)

    def test_several_processes_say_what_one_says(
        self, part: Part, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "all.tsv.gz"
        pack([part], path)
        said = []
        for workers in ("1", "2"):
            arguments = ["--searches", "11", "--only", "uniform", "--table", str(path), "--workers", workers]
            monkeypatch.setattr(sys, "argv", ["search.py", *arguments])
            search.main()
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
        assert "uniform random" in said[0]


def test_an_oracle_goes_on_with_what_enters_the_front(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run(table, ours("random"), COST)
    search.print_oracle(table, whole, 1, FEWEST)
    on = [wanted for number, wanted in enumerate(entering(whole.trials[0], table.ratios)) if number >= FEWEST]
    spent = EPOCHS * (FEWEST + sum(on)) + on.count(False)
    assert f"spend {spent / (EPOCHS * COST):.3f} " in " ".join(capsys.readouterr().out.split())


def figures_of(line: str) -> list[float]:
    """Return the numbers in a line of a table."""
    return [float(word) for word in line.replace("/", " ").split() if word.replace(".", "").replace("-", "").isdigit()]


def test_the_table_of_rungs_says_what_was_stopped(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    front = table.front(0)
    others = [key for key in table.inside if key not in front and table.curves[key, 0]]
    keys = [*front[:4], *others[:46]]
    trials = [
        Trial(key, 3 if number % 3 == 1 else EPOCHS, 0.5, stopped=number % 3 == 1) for number, key in enumerate(keys)
    ]
    trials.insert(46, Trial(keys[40], EPOCHS - 3, 0.5, resumed=True))  # the one before last that was stopped
    spent = np.cumsum([trial.epochs for trial in trials])
    ruled = Searches("ruled", [spent], [spent], [spent / 1000], [spent], [trials], [0])
    whole = dataclasses.replace(ruled, name="whole", area=[spent / 500])
    search.print_rungs(table, [(ruled, whole)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ruled")]
    _, _, more, stopped, wrong, lost, own_wrong, own_lost = figures_of(line)  # it saves nothing: inf
    assert more == pytest.approx(-spent[-1] / 1000, abs=6e-4)
    assert (stopped, wrong, lost) == (0.32, round(1 / 16, 3), 0.25)  # 16 of 50, of which one is of the front's four
    count, members, both = wrong_stops(table, trials, 0, own=True)
    assert [own_wrong, own_lost] == pytest.approx([both / count, both / members], abs=6e-4)
    assert (own_wrong, own_lost) != (wrong, lost)


def test_the_comparison_prints_what_was_replayed(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    found = replayed(table, search.RANDOM_SLOTS, plain("random", slots), 4, 0, COST, COST)
    search.print_comparison([found], table)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("plain")]
    area = found.at(COST * EPOCHS)
    for figure in (
        area.mean(),
        area[::2].mean(),
        area[1::2].mean(),
        found.at(COST * EPOCHS, again_is_free=True).mean(),
    ):
        assert f"{figure:.3f}" in line
    assert f"{found.duplicates(COST * EPOCHS):.1f}" in line.split()
    assert found.duplicates(COST * EPOCHS) > 1
