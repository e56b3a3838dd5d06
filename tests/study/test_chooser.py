"""Trainings that stop where another one promises more, and are taken up again when they promise most."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import toy
from test_judge import EPOCHS, IMAGES, PROTOCOL, spared

from nas.architecture import Architecture
from nas.evaluation import Evaluation, wilson_interval
from nas.limits import Limits
from nas.rungs import Rungs, StoppedError
from nas.study import Chooser, Outcome, Study, run
from nas.study.gain import PAIRS
from nas.study.sampler import Proposal, propose
from nas.study.trials import RESUMES
from nas.study.worker import Worker

BUDGET = 24
RUNGS = Rungs(epochs=(2,))
BROUGHT = {"se": 0.01, "eca": -0.02, "cbam": 0.03, "simam": 0.0}


def create(folder: Path, limits: Limits | None = None) -> Study:
    return Study.create("toy", toy.url(folder), space=toy.space(), protocol=PROTOCOL, limits=limits)


def outcome_of(architecture: Architecture) -> Evaluation:
    """Blocks bring something, more at late stages; half way it shows but for some noise."""
    level = 0.7 + sum(BROUGHT[each.block] * (1 + each.stage) for each in architecture.placements) / 2
    noise = np.random.default_rng(int(architecture.id, 16)).normal(0, 0.03, size=EPOCHS)
    curve = tuple(round(IMAGES * (level - 0.05 * left + noise[left])) / IMAGES for left in reversed(range(EPOCHS)))
    low, high = wilson_interval(curve[-1], IMAGES)
    evaluation = toy.evaluate(architecture)
    return dataclasses.replace(evaluation, accuracy=curve[-1], accuracy_low=low, accuracy_high=high, curve=curve)


class Trainings:
    """Evaluates as :class:`nas.evaluate.Evaluator` does, and remembers what was begun, from which epoch on."""

    def __init__(self, study: Study) -> None:
        self.rule = Chooser(study, toy.space(), RUNGS, seed=0, spared=spared(toy.space()))
        self.begun: list[str] = []

    def __call__(self, architecture: Architecture) -> Evaluation:
        evaluation = outcome_of(architecture)
        self.begun.append(architecture.id)
        after_epoch = self.rule(architecture, evaluation, IMAGES)
        for epoch, accuracy in enumerate(evaluation.curve, 1):
            if after_epoch is not None:
                after_epoch(epoch, accuracy)
        return evaluation


def search(study: Study, budget: int = BUDGET) -> tuple[Outcome, Trainings]:
    trainings = Trainings(study)
    return run(study, trainings, space=toy.space(), budget=budget), trainings


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Outcome, Trainings]:
    study = create(tmp_path_factory.mktemp("chooser"))
    return study, *search(study)


def resumed(study: Study) -> list[str]:
    return [trial.user_attrs["architecture"] for trial in study._trials() if trial.user_attrs.get(RESUMES)]


def test_the_budget_is_spent_on_more_architectures_than_whole_trainings(
    ended: tuple[Study, Outcome, Trainings],
) -> None:
    study, outcome, trainings = ended
    assert outcome.finished + outcome.stopped == len(set(trainings.begun)) > BUDGET
    assert outcome.stopped == len(study.stopped()) > 5
    paid = EPOCHS * outcome.finished + sum(len(each.curve) for each in study.stopped())
    assert study.tally().spent == paid / EPOCHS
    assert BUDGET <= study.tally().spent < BUDGET + 1
    assert {len(each.curve) for each in study.stopped()} == {2}
    assert all(each.reason.endswith("another training promises more") for each in study.stopped())


def test_what_promises_most_later_is_finished(ended: tuple[Study, Outcome, Trainings]) -> None:
    study, _, trainings = ended
    again = resumed(study)
    assert len(again) >= 1
    assert len(again) == len(set(again)) == len(trainings.begun) - len(set(trainings.begun))
    finished = {row.architecture.id for row in study.rows()}
    assert finished.issuperset(again)
    assert finished.isdisjoint(each.architecture.id for each in study.stopped())
    known = [entry for entry in study.tally().known if entry.id in again]
    assert [entry.values is None for entry in known].count(True) == len(again)  # the trial that was stopped stays


def test_what_was_finished_is_better_than_what_was_stopped(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    chosen = [row.accuracy for row in study.rows() if row.architecture.id not in spared(toy.space())]
    left = [outcome_of(each.architecture).accuracy for each in study.stopped()]
    assert np.mean(chosen) > np.mean(left) + 0.02


def test_rows_say_among_how_many_they_were_found(ended: tuple[Study, Outcome, Trainings]) -> None:
    study, outcome, _ = ended
    assert {row.left for row in study.rows()} == {outcome.stopped}


def test_the_controls_and_the_first_are_trained_to_the_end(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    assert spared(toy.space()) <= {row.architecture.id for row in study.rows()}
    assert min(each.trial for each in study.stopped()) >= PAIRS


def test_a_search_that_was_cut_off_goes_on_as_it_would_have(
    tmp_path: Path, ended: tuple[Study, Outcome, Trainings]
) -> None:
    first = create(tmp_path)
    search(first, budget=15)
    first.close()
    second = create(tmp_path)
    outcome, _ = search(second)
    assert outcome == ended[1]
    found = [[trial.user_attrs["architecture"] for trial in study._trials()] for study in (second, ended[0])]
    assert found[0] == found[1]


def test_workers_finish_nothing_twice(tmp_path: Path) -> None:
    create(tmp_path).close()
    found: list[Trainings] = []

    def work() -> None:
        study = create(tmp_path)
        found.append(search(study)[1])
        study.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    study = create(tmp_path)
    begun = [key for trainings in found for key in trainings.begun]
    assert len(begun) == len(set(begun)) + len(resumed(study))
    assert BUDGET <= study.tally().spent < BUDGET + 1
    assert study.failures() == []
    study.close()


def stop_until_one_is_resumed(study: Study, worker: Worker) -> Proposal:
    """Stop whatever is proposed, and return the first proposal to take one up again."""
    while (proposal := propose(toy.space(), study.tally().known, sampler="additive", seed=0)) is not None:
        if proposal.resumes:
            return proposal
        evaluation = outcome_of(proposal.architecture)
        trial = study.claim(proposal, worker, toy.space())
        study.stop(trial, StoppedError("stopped", evaluation.curve[:2], evaluation))
    pytest.fail("none was resumed")


def test_one_whose_worker_dies_is_still_taken_up_again(tmp_path: Path) -> None:
    study = create(tmp_path)
    run(study, outcome_of, space=toy.space(), budget=12, sampler="random")
    with Worker(study.store) as dead, Worker(study.store) as other:
        proposal = stop_until_one_is_resumed(study, dead)
        architecture, spent, left = proposal.architecture, study.tally().spent, len(study.stopped())
        assert study.was_stopped(architecture.id)
        trial = study.claim(proposal, dead, toy.space())
        with study.lock():
            study.requeue(trial, "its worker died")
        again = study.claim_waiting(other, toy.space())
        assert again is not None
        assert study.architecture(again) == architecture
        assert study.tally().spent == spent
        assert Trainings(study).rule(architecture, outcome_of(architecture), IMAGES) is None  # not stopped once more
        study.finish(again, outcome_of(architecture))
        assert len(study.stopped()) == left - 1
        assert study.tally().spent == spent + 0.5
        with study.lock():
            study.retry(again)
        assert study.claim_waiting(other, toy.space()) is None


def test_one_that_fails_when_it_is_taken_up_again_failed_and_is_left(tmp_path: Path) -> None:
    study = create(tmp_path)
    run(study, outcome_of, space=toy.space(), budget=12, sampler="random")
    with Worker(study.store) as worker:
        proposal = stop_until_one_is_resumed(study, worker)
        spent, left = study.tally().spent, study.tally().stopped
        study.fail(study.claim(proposal, worker, toy.space()), "out of memory")
        assert proposal.architecture.id not in {each.architecture.id for each in study.stopped()}
        assert len(study.stopped()) == study.tally().stopped == left - 1
        assert len(study.failures()) == 1
        assert study.tally().spent == spent  # it was trained all the same
        following = propose(toy.space(), study.tally().known, sampler="additive", seed=0)
        assert following is not None
        assert following.architecture != proposal.architecture


def test_with_other_samplers_it_stays_stopped(tmp_path: Path) -> None:
    study = create(tmp_path)
    run(study, outcome_of, space=toy.space(), budget=12, sampler="random")
    with Worker(study.store) as worker:
        stop_until_one_is_resumed(study, worker)
    stopped = study.stopped()
    run(study, outcome_of, space=toy.space(), budget=math.ceil(study.tally().spent) + 4, sampler="tpe")
    assert study.stopped() == stopped


def test_it_keeps_to_the_limits(tmp_path: Path) -> None:
    study = create(tmp_path, Limits(slowdown=0.12))
    trainings = Trainings(study)

    def within(architecture: Architecture) -> Evaluation:
        found = trainings(architecture)
        assert len(architecture.placements) <= 2 or architecture.id in spared(toy.space())
        return found

    with Worker(study.store) as worker:
        for _ in range(40):
            proposal = propose(toy.space(), study.tally().known, sampler="additive", seed=0)
            assert proposal is not None
            trial = study.claim(proposal, worker, toy.space())
            evaluation = outcome_of(proposal.architecture)
            if evaluation.latency.ratio > 1.12:
                study.reject(trial, "too slow", evaluation)
                continue
            try:
                study.finish(trial, within(proposal.architecture))
            except StoppedError as stopped:
                study.stop(trial, stopped)
    assert len(study.stopped()) > 0
    assert all(entry.excess["slowdown"] <= 0 for entry in study.tally().known if entry.curve)


@pytest.mark.parametrize(
    ("rungs", "message"), [((1, 2), "looks at a training once, but got rungs"), ((4,), "has 4 epochs, but got 4")]
)
def test_rungs_that_it_cannot_keep_to_are_refused(tmp_path: Path, rungs: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chooser(create(tmp_path), toy.space(), Rungs(epochs=rungs), seed=0)


def test_what_was_spent_up_to_each_trial(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    spent = study.spent()
    assert list(spent) == sorted(spent)
    steps = np.diff([0.0, *spent.values()])
    again = {trial.number for trial in study._trials() if trial.user_attrs.get(RESUMES)}
    stopped = {each.trial for each in study.stopped()}
    for number, step in zip(spent, steps, strict=True):
        whole = 0.5 if number in again or number in stopped else None  # two of the four epochs were there, or are left
        assert step == pytest.approx(whole or (0.5 if number not in study.curves() else 1.0))
    assert spent[max(spent)] == pytest.approx(study.tally().spent)


def test_curves_are_those_of_the_finished(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    rows = {row.trial: row.architecture for row in study.rows()}
    curves = study.curves()
    assert list(curves) == sorted(rows)
    assert all(curve == outcome_of(rows[trial]).curve for trial, curve in curves.items())


def test_when_it_was_made(ended: tuple[Study, Outcome, Trainings], tmp_path: Path) -> None:
    period = ended[0].period()
    assert period is not None
    assert period[0] < period[1]
    assert create(tmp_path).period() is None
