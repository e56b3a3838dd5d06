"""The drop-one check on a toy study, what it refuses, and one whole run of the verb."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from rows import make_row

from nas.ablation import FAILED
from nas.architecture import Architecture
from nas.cli import main
from nas.evaluation import Evaluation, EvaluationError, wilson_interval
from nas.explain import Check, chosen
from nas.front import mark_front
from nas.removal import IDLE, PAYS
from nas.seeds import Replicate
from nas.study import Study, run

WORTH = {0: 0.10, 1: 0.0, 2: 0.0, 3: 0.05}
"""What a block at each stage adds to the accuracy."""
IMAGES = 100_000


def evaluate(architecture: Architecture) -> Evaluation:
    """Accuracy is the sum of what the stages are worth; each block adds a tenth to the latency."""
    accuracy = 0.7 + sum(WORTH[placement.stage] for placement in architecture.placements)
    ratio = 1 + 0.1 * len(architecture.placements)
    low, high = wilson_interval(accuracy, IMAGES)
    found = toy.evaluate(architecture)
    latency = dataclasses.replace(found.latency, ratio=ratio, ratio_low=ratio - 0.01, ratio_high=ratio + 0.01)
    return dataclasses.replace(
        found, accuracy=accuracy, accuracy_low=low, accuracy_high=high, curve=(accuracy,), latency=latency
    )


def network(*stages: int) -> Architecture:
    space = toy.space()
    return Architecture(
        backbone="toy",
        placements=tuple(placement for stage in stages for placement in space.by_stage("toy")[stage][:1]),
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The controls, and nothing else: se, eca and cbam at four stages each."""
    study = toy.create(tmp_path)
    run(study, evaluate, space=toy.space(), budget=4, sampler="random")
    return study


def trial_of(study: Study, architecture: Architecture) -> int:
    return next(row.trial for row in study.rows() if row.architecture.id == architecture.id)


class Trainer:
    """Trains with other seeds as the evaluation did, a little apart; notes what it trained."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.trained: list[tuple[str, int]] = []

    def __call__(self, architecture: Architecture, seed: int) -> Replicate:
        self.trained.append((architecture.id, seed))
        protocol = dataclasses.replace(toy.PROTOCOL, seed=seed)
        accuracy = evaluate(architecture).accuracy + 0.001 * math.sin(7 * seed)
        replicate = Replicate(
            architecture=architecture.id,
            seed=seed,
            epochs=protocol.epochs,
            accuracy=accuracy,
            val_images=IMAGES,
            curve=(accuracy,),
            train_seconds=0.0,
            versions={},
        )
        self.study.store.put_replicate(architecture, protocol.training_hash, replicate, family=protocol.family_hash)
        return replicate


def counted(calls: list[Architecture]) -> Callable[[Architecture], Evaluation]:
    def noted(architecture: Architecture) -> Evaluation:
        calls.append(architecture)
        return evaluate(architecture)

    return noted


def make_check(
    study: Study, evaluator: Callable[[Architecture], Evaluation] = evaluate, seeds: tuple[int, ...] = ()
) -> Check:
    return Check(study=study, evaluate=evaluator, train=Trainer(study), space=toy.space(), seeds=seeds)


def test_each_block_is_removed_in_turn_and_those_that_do_not_pay_together(study: Study) -> None:
    calls: list[Architecture] = []
    found = make_check(study, counted(calls))(1)  # se everywhere
    assert [drop.verdict for drop in found.drops] == [PAYS, IDLE, IDLE, PAYS]
    left = {tuple(placement.stage for placement in architecture.placements) for architecture in calls}
    assert left == {(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2), (0, 3)}
    assert found.pruned is not None
    assert found.pruned.other.trial == 8
    assert study.joined(1) == [4, 5, 6, 7, 8]
    assert found.sentence.startswith("Take trial 8 (0: se(reduction=8); 3: se(reduction=")
    assert study.tally().spent == 4
    assert len(study.rows()) == 9


def test_what_is_known_costs_nothing(study: Study) -> None:
    make_check(study)(1)
    before = study.rows()
    calls: list[Architecture] = []
    again = make_check(study, counted(calls))(1)
    assert calls == []
    assert study.rows() == before
    assert again.sentence.startswith("Take trial 8 ")


def test_one_block_is_compared_with_the_bare_backbone(study: Study) -> None:
    make_check(study)(1)
    make_check(study)(8)  # stages 0 and 3: leaves each of them alone
    alone = next(row.trial for row in study.rows() if [p.stage for p in row.architecture.placements] == [0])
    calls: list[Architecture] = []
    found = make_check(study, counted(calls))(alone)
    assert calls == []
    assert found.drops[0].difference is not None
    assert found.drops[0].difference.other.control == "bare"
    assert found.sentence.endswith("its block pays.")


def test_a_check_that_was_stopped_goes_on_where_it_was(study: Study) -> None:
    calls: list[Architecture] = []

    def interrupted(architecture: Architecture) -> Evaluation:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(calls)(architecture)

    with pytest.raises(KeyboardInterrupt):
        make_check(study, interrupted)(1)
    assert len(study.rows()) == 6
    rest: list[Architecture] = []
    found = make_check(study, counted(rest))(1)
    assert [drop.verdict for drop in found.drops] == [PAYS, IDLE, IDLE, PAYS]
    assert len({each.id for each in calls + rest}) == len(calls + rest) == 5
    assert study.tally().running == study.tally().waiting == 0


def test_all_that_is_compared_is_trained_with_the_seeds_that_it_lacks(study: Study) -> None:
    check = make_check(study, seeds=(1, 2))
    found = check(1)
    rows = {row.trial: row for row in study.rows()}
    assert {row.trial for row in rows.values() if row.seeds == 3} == {1, 4, 5, 6, 7, 8}
    assert isinstance(check.train, Trainer)
    assert len(check.train.trained) == len(set(check.train.trained)) == 12
    assert found.full.seed_error is not None
    more = make_check(study, seeds=(1, 2, 3))
    more(1)
    assert isinstance(more.train, Trainer)
    assert sorted(seed for _, seed in more.train.trained) == [3] * 6


def test_what_cannot_be_trained_again_is_named_and_the_rest_is(study: Study) -> None:
    check = make_check(study, seeds=(1,))
    good = check.train

    def fails(architecture: Architecture, seed: int) -> Replicate:
        if len(architecture.placements) == 4:
            raise EvaluationError("no luck")
        return good(architecture, seed)

    check = dataclasses.replace(check, train=fails)
    check(1)
    assert len(check.failures) == 1
    assert check.failures[0].endswith("with seed 1: no luck")
    assert sum(row.seeds == 2 for row in study.rows()) == 5


def test_what_cannot_be_evaluated_is_named_and_the_rest_is(study: Study) -> None:
    said: list[str] = []

    def fails(architecture: Architecture) -> Evaluation:
        if [placement.stage for placement in architecture.placements] == [1, 2, 3]:
            raise EvaluationError("no memory left")
        return evaluate(architecture)

    check = dataclasses.replace(make_check(study, fails), say=said.append)
    found = check(1)
    assert [drop.verdict for drop in found.drops] == [FAILED, IDLE, IDLE, PAYS]
    assert found.drops[0].reason == "no memory left"
    assert "1/4 without 0: se: no memory left" in said


def test_where_nothing_can_be_evaluated_the_check_fails(study: Study) -> None:
    def fails(_: Architecture) -> Evaluation:
        raise EvaluationError("no memory left")

    with pytest.raises(EvaluationError, match="trial 1 cannot be checked: no memory left"):
        make_check(study, fails)(1)


def test_the_recommended_one_or_the_one_that_is_named_is_checked() -> None:
    rows = mark_front([make_row(0, 0.8, 2.0, "bare"), make_row(1, 0.9, 2.2), make_row(2, 0.85, 2.1)])
    assert chosen(rows, None).trial == 1
    assert chosen(rows, 2).trial == 2
    with pytest.raises(ValueError, match=r"trial 0 is the bare backbone and has no block to remove; name a trial that"):
        chosen(rows, 0)
    with pytest.raises(ValueError, match="no finished trial has the number 9; . have finished, the nearest: 0, 1, 2"):
        chosen(rows, 9)
    with pytest.raises(ValueError, match="at least one trial must have finished"):
        chosen([], None)
    nothing = mark_front([make_row(0, 0.8, 2.0, "bare"), make_row(1, 0.7, 2.2)])
    with pytest.raises(ValueError, match="no block to remove, and it is what the study recommends; name a trial"):
        chosen(nothing, None)


SEARCH = ["--budget", "4", "--limit", "300", "--resolution", "16", "--epochs", "1", "--batch-size", "32"]
SEARCH += ["--latency-seconds", "0.02", "--device", "cpu", "--sampler", "random", "--study", "small", "--repeats", "1"]
EXPLAIN = ["explain", "--study", "small", "--trial", "1", "--seeds", "1", "--device", "cpu"]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("start", [[], ["--warm-start", "1", "--freeze-backbone"]], ids=["fresh", "warm"])
def test_a_whole_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], start: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SEARCH, *start]) == 0
    capsys.readouterr()
    assert main(EXPLAIN) == 0
    first = capsys.readouterr()
    folder = tmp_path / "studies" / "small"
    text = (folder / "explain-1.md").read_text()
    assert text in first.out
    with (folder / "explain-1.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["trial"] for line in lines[:5]] == ["1", "4", "5", "6", "7"]
    assert {line["seeds"] for line in lines} == {"2"}
    with (folder / "front.csv").open() as file:
        assert len(list(csv.DictReader(file))) >= 8
    assert json.loads((folder / "best.json").read_text())["evidence"]["study"] == "small"
    with sqlite3.connect(tmp_path / "studies" / "studies.db") as database:
        query = "SELECT value_json FROM trial_user_attributes WHERE key = 'explains'"
        assert {value for (value,) in database.execute(query)} == {"1"}
        hashes = database.execute("SELECT count(DISTINCT protocol_hash) FROM nas_evaluations").fetchone()
    assert hashes == (1,)

    def train(*_arguments: object, **_named: object) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr("nas.proxy.train", train)
        assert main(EXPLAIN) == 0
        assert capsys.readouterr().out == first.out
    # A search goes on with as many of its own.
    assert main([*SEARCH, "--budget", "5", *start]) == 0
    with (folder / "front.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(lines) - 1 + 5

    with monkeypatch.context() as patch:
        patch.setattr("nas.evaluate.software", lambda: "torch 99")
        message = refused(EXPLAIN, capsys)
    assert "must be trained and timed as its trials were, but here differs protocol.software: " in message
    assert "study 'small' was not started from a file, but got" in refused([*EXPLAIN, "--checkpoint", "x"], capsys)
    assert "further seeds must be between 0 and 999, but got -1" in refused([*EXPLAIN, "--seeds", "-1"], capsys)
    assert "trial 0 is the bare backbone" in refused([*EXPLAIN, "--trial", "0"], capsys)
