"""Trials that are stopped at a rung for good: what the study keeps of them, and that the budget counts them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
from pathlib import Path

import optuna
import pytest
import toy

from nas.architecture import Architecture
from nas.evaluation import Evaluation, wilson_interval
from nas.limits import Limits
from nas.protocol import Protocol
from nas.rungs import Rungs, StoppedError
from nas.seeds import Replicate
from nas.space import ResolvedSpace
from nas.study import Judge, Outcome, Study, run
from nas.study.sampler import Proposal, propose
from nas.study.worker import Worker

EPOCHS = 4
IMAGES = 400
PROTOCOL = dataclasses.replace(toy.PROTOCOL, epochs=EPOCHS)
RUNGS = Rungs(epochs=(1, 2))
BUDGET = 30


def create(folder: Path, limits: Limits | None = None, protocol: Protocol = PROTOCOL) -> Study:
    return Study.create("toy", toy.url(folder), space=toy.space(), protocol=protocol, limits=limits)


def luck(architecture: Architecture, what: str = "") -> float:
    text = f"{architecture.id} {what}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def outcome_of(architecture: Architecture) -> Evaluation:
    """Half of the architectures are clearly worse than the others, from the first epoch on."""
    level = 0.5 + 0.02 * luck(architecture, "noise") + (0.3 if luck(architecture) < 0.5 else 0)
    curve = tuple(round(IMAGES * (level + 0.04 * epoch)) / IMAGES for epoch in range(EPOCHS))
    low, high = wilson_interval(curve[-1], IMAGES)
    return dataclasses.replace(
        toy.evaluate(architecture), accuracy=curve[-1], accuracy_low=low, accuracy_high=high, curve=curve
    )


class Trainings:
    """Evaluates as :class:`nas.evaluate.Evaluator` does, and remembers what was trained, and how far."""

    def __init__(self, rule: Judge | None) -> None:
        self.rule = rule
        self.begun: list[str] = []
        self.epochs = 0

    def __call__(self, architecture: Architecture) -> Evaluation:
        evaluation = outcome_of(architecture)
        self.begun.append(architecture.id)
        after_epoch = self.rule(architecture, evaluation, IMAGES) if self.rule is not None else None
        for epoch, accuracy in enumerate(evaluation.curve, 1):
            self.epochs += 1
            if after_epoch is not None:
                after_epoch(epoch, accuracy)
        return evaluation


def spared(space: ResolvedSpace) -> set[str]:
    return {control.architecture.id for control in space.controls()}


def search(study: Study, rungs: Rungs | None = RUNGS, budget: int = BUDGET) -> tuple[Outcome, Trainings]:
    trainings = Trainings(None if rungs is None else Judge(study, rungs, spared(toy.space())))
    return run(study, trainings, space=toy.space(), budget=budget, sampler="random"), trainings


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Outcome, Trainings]:
    study = create(tmp_path_factory.mktemp("judge"))
    return study, *search(study)


def test_the_budget_counts_what_was_stopped(ended: tuple[Study, Outcome, Trainings]) -> None:
    study, outcome, trainings = ended
    assert outcome.stopped == len(study.stopped()) > 3
    assert len(trainings.begun) == len(set(trainings.begun)) == outcome.finished + outcome.stopped > BUDGET
    assert trainings.epochs == EPOCHS * outcome.finished + sum(len(each.curve) for each in study.stopped())
    assert study.tally().spent == trainings.epochs / EPOCHS
    assert EPOCHS * BUDGET <= trainings.epochs < EPOCHS * (BUDGET + 1)


def test_what_was_stopped_was_worse_than_one_at_most_as_slow(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    for each in study.stopped():
        mine = outcome_of(each.architecture)
        faster = [row for row in study.rows() if row.latency_ratio <= mine.latency.ratio]
        assert mine.accuracy < max(row.accuracy for row in faster)
        assert each.curve == mine.curve[: len(each.curve)]
        assert each.reason.startswith(f"stopped after epoch {len(each.curve)} at ")


def test_the_controls_are_always_trained_to_the_end(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    finished = {row.architecture.id for row in study.rows()}
    assert spared(toy.space()) <= finished
    assert min(outcome_of(control.architecture).accuracy for control in toy.space().controls()) < 0.7  # some are weak


def test_what_was_stopped_is_no_result(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    stopped = {each.architecture.id for each in study.stopped()}
    assert stopped.isdisjoint(row.architecture.id for row in study.rows())
    assert study.rejected() == []
    assert study.failures() == []
    for key in stopped:
        assert study.store.evaluations(study.protocol_hash).get(key) is None


def test_the_sampler_learns_a_curve_and_no_value(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    stopped = {each.architecture.id: each for each in study.stopped()}
    for entry in study.tally().known:
        if entry.id in stopped:
            assert entry.values is None
            assert entry.curve == stopped[entry.id].curve
            assert entry.nominal_ms is not None
        else:
            assert entry.values is not None
            assert len(entry.curve) == EPOCHS


def test_what_was_stopped_is_not_proposed_again(ended: tuple[Study, Outcome, Trainings]) -> None:
    known = ended[0].tally().known
    for sampler in ("tpe", "random", "nsga2"):
        proposal = propose(toy.space(), known, sampler=sampler, seed=3)
        assert proposal is not None
        assert proposal.architecture.id not in {entry.id for entry in known}


def test_optuna_shows_why(ended: tuple[Study, Outcome, Trainings]) -> None:
    study = ended[0]
    shown = optuna.load_study(study_name="toy", storage=study.url)
    pruned = [trial for trial in shown.trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert [trial.number for trial in pruned] == [each.trial for each in study.stopped()]
    assert all(trial.user_attrs["reason"].startswith("stopped after epoch ") for trial in pruned)


def test_without_rungs_nothing_is_stopped(tmp_path: Path) -> None:
    outcome, trainings = search(create(tmp_path), None)
    assert (outcome.finished, outcome.stopped, trainings.epochs) == (BUDGET, 0, EPOCHS * BUDGET)


def test_a_search_that_was_cut_off_goes_on_as_it_would_have(
    tmp_path: Path, ended: tuple[Study, Outcome, Trainings]
) -> None:
    first = create(tmp_path)
    search(first, budget=17)
    first.close()
    second = create(tmp_path)
    outcome, _ = search(second)
    assert outcome == ended[1]
    assert [each.architecture for each in second.stopped()] == [each.architecture for each in ended[0].stopped()]
    assert [row.architecture for row in second.rows()] == [row.architecture for row in ended[0].rows()]


def test_workers_judge_by_what_the_others_found(tmp_path: Path) -> None:
    create(tmp_path).close()
    found: list[tuple[Outcome, Trainings]] = []

    def work() -> None:
        study = create(tmp_path)
        found.append(search(study))
        study.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    begun = [key for _, trainings in found for key in trainings.begun]
    assert len(begun) == len(set(begun))
    study = create(tmp_path)
    assert BUDGET <= study.tally().spent < BUDGET + 1
    assert study.tally().stopped > 0
    assert study.failures() == []
    study.close()


def stop_for(study: Study, architecture: Architecture) -> StoppedError:
    """Return what stops an architecture in a study that has finished others."""
    curve = (0.01,)
    after_epoch = Judge(study, RUNGS)(architecture, outcome_of(architecture), IMAGES)
    assert after_epoch is not None
    with pytest.raises(StoppedError) as caught:
        after_epoch(1, curve[0])
    return caught.value


def a_new_one(study: Study) -> Proposal:
    proposal = propose(toy.space(), study.tally().known, sampler="random", seed=9)
    assert proposal is not None
    return proposal


def taken_over(study: Study, slow: Worker, other: Worker) -> tuple[optuna.Trial, optuna.Trial]:
    """Return a trial whose worker seemed dead, and the one in which another worker repeats it."""
    trial = study.claim(a_new_one(study), slow, toy.space())
    with study.lock():
        study.requeue(trial, "it seemed dead")
    again = study.claim_waiting(other, toy.space())
    assert again is not None
    return trial, again


def test_one_that_was_stopped_after_it_was_taken_over_counts_once(tmp_path: Path) -> None:
    study = create(tmp_path)
    search(study, None, budget=12)
    with Worker(study.store) as slow, Worker(study.store) as other:
        trial, again = taken_over(study, slow, other)
        architecture = study.architecture(trial)
        stopped = stop_for(study, architecture)
        study.stop(trial, stopped)
        assert study.tally().stopped == 0  # the trial had been taken over
        study.stop(again, stopped)
        study.stop(again, stopped)
        assert (study.tally().stopped, study.tally().spent) == (1, 12 + 1 / EPOCHS)
        with study.lock():
            study.retry(again)
        assert study.claim_waiting(other, toy.space()) is None


def test_one_that_is_stopped_keeps_to_the_limits_and_ends_a_row_of_those_that_do_not(tmp_path: Path) -> None:
    limits = Limits(slowdown=10.0)
    study = create(tmp_path, limits)
    search(study, None, budget=12)
    with Worker(study.store) as worker:
        trial = study.claim(a_new_one(study), worker, toy.space())
        study.reject(trial, "too slow", outcome_of(study.architecture(trial)))
        assert study.tally().rejected == 1
        trial = study.claim(a_new_one(study), worker, toy.space())
        study.stop(trial, stop_for(study, study.architecture(trial)))
    assert study.tally().rejected == 0
    assert (len(study.rejected()), len(study.stopped())) == (1, 1)
    (stopped,) = [entry for entry in study.tally().known if len(entry.curve) == 1]
    assert stopped.excess["slowdown"] < 0


def test_what_a_worker_taken_for_dead_has_finished_is_not_lost(tmp_path: Path) -> None:
    study = create(tmp_path)
    search(study, None, budget=12)
    with Worker(study.store) as slow, Worker(study.store) as other:
        trial, again = taken_over(study, slow, other)
        architecture = study.architecture(trial)
        assert not study.finish(trial, outcome_of(architecture))
        study.stop(again, stop_for(study, architecture))
    assert (study.tally().finished, study.tally().stopped) == (13, 0)
    assert architecture in [row.architecture for row in study.rows()]


def test_one_that_is_finished_after_another_worker_has_stopped_it_counts(tmp_path: Path) -> None:
    study = create(tmp_path)
    search(study, None, budget=12)
    with Worker(study.store) as slow, Worker(study.store) as other:
        trial, again = taken_over(study, slow, other)
        architecture = study.architecture(trial)
        study.stop(again, stop_for(study, architecture))
        for _ in range(2):  # a second time it is there already
            assert not study.finish(trial, outcome_of(architecture))
    tally = study.tally()
    assert (tally.finished, tally.stopped, tally.spent, tally.running) == (13, 0, 13, 0)
    (row,) = [row for row in study.rows() if row.architecture == architecture]
    assert row.accuracy == outcome_of(architecture).accuracy
    (last,) = [entry for entry in tally.known if entry.id == architecture.id and entry.values is not None]
    assert last.params == tally.known[-2].params != {}  # a proposal of the space, as it was before


def test_a_reader_that_another_worker_overtakes_finds_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two looks at the database another trial is finished."""
    study, other = create(tmp_path), create(tmp_path)
    search(study, None, budget=8)
    evaluations = Study._evaluations

    def overtaken(self: Study) -> dict[str, Evaluation]:
        monkeypatch.setattr(Study, "_evaluations", evaluations)
        found = evaluations(self)
        run(other, outcome_of, space=toy.space(), budget=study.finished() + 1, sampler="random")
        return found

    for read in (study.trainings, study.rows, study.seed_noise, study.since_gain, study.tally):
        monkeypatch.setattr(Study, "_evaluations", overtaken)
        read()
    assert study.finished() == 8 + 4  # seed_noise looks no further while nothing was trained twice


def test_rungs_may_come_and_go(tmp_path: Path) -> None:
    study = create(tmp_path)
    search(study, None, budget=12)
    search(study, RUNGS, budget=24)
    stopped = study.tally().stopped
    assert stopped > 0
    spent = study.tally().spent
    outcome, trainings = search(study, None, budget=30)
    assert (outcome.stopped, len(trainings.begun)) == (stopped, math.ceil(30 - spent))
    assert study.failures() == []


def test_a_rung_beyond_the_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which has 4 epochs, but got 9"):
        Judge(create(tmp_path), Rungs(epochs=(1, 9)))


class TestPatience:
    def test_the_search_ends_when_the_front_stands_still(self, tmp_path: Path) -> None:
        study = create(tmp_path)
        outcome = run(study, outcome_of, space=toy.space(), budget=60, patience=10)
        assert outcome.stalled
        assert outcome.finished < 60
        assert study.since_gain() == 10

    def test_what_was_stopped_counts(self, tmp_path: Path) -> None:
        study = create(tmp_path)
        trainings = Trainings(Judge(study, RUNGS, spared(toy.space())))
        outcome = run(study, trainings, space=toy.space(), budget=60, patience=10, sampler="random")
        assert outcome.stalled
        assert 10 <= study.since_gain() < 11
        assert outcome.stopped > 0

    def test_the_controls_do_not_count(self, tmp_path: Path) -> None:
        outcome = run(create(tmp_path), flat, space=toy.space(), budget=60, patience=3)
        assert (outcome.finished, outcome.stalled) == (len(toy.space().controls()) + 3, True)

    def test_a_gain_starts_it_anew(self, tmp_path: Path) -> None:
        study, seen = create(tmp_path), []

        def seventh_is_better(architecture: Architecture) -> Evaluation:
            seen.append(architecture)
            found = flat(architecture)
            gain = 0.1 if len(seen) == 7 else 0.0
            return dataclasses.replace(found, accuracy=0.8 + gain, accuracy_low=0.78 + gain, accuracy_high=0.82 + gain)

        assert run(study, seventh_is_better, space=toy.space(), budget=60, patience=4).finished == 7 + 4

    def test_further_seeds_do_not_make_the_search_go_on(self, tmp_path: Path) -> None:
        study = create(tmp_path)
        first = run(study, outcome_of, space=toy.space(), budget=60, patience=6)
        for seed in (1, 2, 3):
            for row in study.rows()[::3]:
                evaluation = outcome_of(row.architecture)
                replicate = Replicate(
                    architecture=row.architecture.id,
                    seed=seed,
                    epochs=EPOCHS,
                    accuracy=evaluation.accuracy - 0.2,
                    val_images=IMAGES,
                    curve=(evaluation.accuracy - 0.2,),
                    train_seconds=0.0,
                    versions={},
                )
                protocol = dataclasses.replace(PROTOCOL, seed=seed)
                study.store.put_replicate(row.architecture, protocol.hash, replicate, family=PROTOCOL.family_hash)
        assert max(row.seeds for row in study.rows()) == 4
        assert run(study, outcome_of, space=toy.space(), budget=60, patience=6) == first

    def test_workers_wait_for_what_the_others_train(self, tmp_path: Path) -> None:
        """A gain that comes late lets the search go on."""
        study = create(tmp_path)
        run(study, flat, space=toy.space(), budget=60, patience=3)
        with Worker(study.store) as other:
            trial = study.claim(a_new_one(study), other, toy.space())
            ended = threading.Event()

            def work() -> None:
                run(create(tmp_path), flat, space=toy.space(), budget=60, patience=3)
                ended.set()

            thread = threading.Thread(target=work)
            thread.start()
            assert not ended.wait(1.5)
            before = study.finished()
            late = flat(study.architecture(trial))
            study.finish(trial, dataclasses.replace(late, accuracy=0.95, accuracy_low=0.93, accuracy_high=0.97))
            thread.join()
        assert study.finished() == before + 1 + 3

    def test_the_budget_still_ends_it(self, tmp_path: Path) -> None:
        outcome = run(create(tmp_path), outcome_of, space=toy.space(), budget=6, patience=50)
        assert (outcome.finished, outcome.stalled) == (6, False)

    @pytest.mark.parametrize("patience", [0, -1])
    def test_it_is_at_least_one(self, tmp_path: Path, patience: int) -> None:
        with pytest.raises(ValueError, match="patience must be at least 1 trial"):
            run(create(tmp_path), outcome_of, space=toy.space(), budget=6, patience=patience)


def flat(architecture: Architecture) -> Evaluation:
    """All are as accurate, and the bare backbone is the quickest: nothing is gained."""
    return dataclasses.replace(toy.evaluate(architecture), accuracy=0.8, accuracy_low=0.78, accuracy_high=0.82)
