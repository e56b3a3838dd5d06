"""What fails, what is cut off, and what it does to the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import toy
from optuna.trial import TrialState

from nas.architecture import Architecture
from nas.evaluation import Evaluation, EvaluationError
from nas.study import RunFailed, Study, run
from nas.study.gain import Observed
from nas.study.ledger import MOST_DEATHS
from nas.study.loop import SAME_AMONG_FINISHED
from nas.study.sampler import Known, Proposal, propose
from nas.study.worker import Worker


def architectures(study: Study) -> list[str]:
    return [row.architecture.id for row in study.rows()]


def test_a_failed_architecture_is_recorded_and_not_proposed_again(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    attempts: list[str] = []

    def sometimes(architecture: Architecture) -> Evaluation:
        attempts.append(architecture.id)
        if len(attempts) % 3 == 0:
            raise EvaluationError(f"non-finite loss in epoch {len(attempts)}")
        return toy.evaluate(architecture)

    run(study, sometimes, space=toy.space(), budget=8, sampler="random")
    assert study.finished() == 8
    assert len(attempts) == len(set(attempts)) == 11
    assert [reason for _, reason in study.failures()] == [f"non-finite loss in epoch {n}" for n in (3, 6, 9)]


def test_three_identical_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    study = toy.create(tmp_path)

    def never(architecture: Architecture) -> Evaluation:
        raise EvaluationError("out of memory")

    with pytest.raises(RunFailed, match="3 trials in a row failed for the same reason: out of memory"):
        run(study, never, space=toy.space(), budget=8)
    assert len(study.failures()) == 3
    assert study.finished() == 0


def test_what_had_no_memory_beside_others_is_tried_once_more(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    space = toy.space()
    attempts: list[str] = []

    def full(architecture: Architecture) -> Evaluation:
        attempts.append(architecture.id)
        if len(attempts) in (4, 5):
            raise EvaluationError("out of memory on cuda:0")
        if len(attempts) == 6:
            study.finish(held, toy.evaluate(study.architecture(held)))
        return toy.evaluate(architecture)

    with Worker(study.store) as other:  # another process, which is at work most of the time
        proposal = propose(space, [], sampler="random", seed=0)
        assert proposal is not None
        held = study.claim(proposal, other, space)
        run(study, full, space=space, budget=5, sampler="random")
    assert attempts[3] == attempts[4]
    assert len(set(attempts)) == len(attempts) - 1
    assert [reason for _, reason in study.failures()] == ["out of memory on cuda:0"] * 2


def test_what_stopped_a_run_is_not_held_against_the_architectures(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    epochs = iter(range(1, 9))

    def busy(architecture: Architecture) -> Evaluation:
        raise EvaluationError(f"non-finite loss in epoch {next(epochs)}")

    with pytest.raises(RunFailed, match="3 trials in a row failed for the same reason: non-finite loss in epoch 3"):
        run(study, busy, space=toy.space(), budget=6, sampler="random")
    run(study, toy.evaluate, space=toy.space(), budget=6, sampler="random")
    controls = [row.control for row in study.rows()[:4]]
    assert controls == ["bare", "se everywhere", "eca everywhere", "cbam everywhere"]
    assert study.finished() == 6


def test_a_failing_database_is_not_held_against_the_architecture(tmp_path: Path) -> None:
    study = toy.create(tmp_path)

    def locked(architecture: Architecture) -> Evaluation:
        raise sa.exc.OperationalError("INSERT", {}, Exception("database is locked"))

    with pytest.raises(sa.exc.OperationalError):
        run(study, locked, space=toy.space(), budget=2, sampler="random")
    assert study.failures() == []
    run(study, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    assert [row.control for row in study.rows()] == ["bare", "se everywhere"]
    assert study.tally().running == 0


def test_an_unforeseen_error_fails_one_trial(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    calls: list[str] = []

    def once(architecture: Architecture) -> Evaluation:
        calls.append(architecture.id)
        if len(calls) == 2:
            raise KeyError("stem")
        return toy.evaluate(architecture)

    run(study, once, space=toy.space(), budget=4, sampler="random")
    assert study.failures() == [(1, "KeyError: 'stem'")]


def test_failures_that_architectures_may_cause_do_not_end_a_study_that_finishes_others(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    attempts: list[str] = []

    def large(architecture: Architecture) -> Evaluation:
        attempts.append(architecture.id)
        if 2 <= len(attempts) < 2 + SAME_AMONG_FINISHED - 1:
            raise EvaluationError("out of memory")
        return toy.evaluate(architecture)

    run(study, large, space=toy.space(), budget=6, sampler="random")
    assert study.finished() == 6
    assert [reason for _, reason in study.failures()] == ["out of memory"] * (SAME_AMONG_FINISHED - 1)
    assert len(attempts) == len(set(attempts)) == 6 + SAME_AMONG_FINISHED - 1


def test_what_ended_a_run_is_tried_again(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    space = toy.space()

    def broken(_architecture: Architecture) -> Evaluation:
        raise LookupError("no driver")

    for _ in range(3):  # however often: nothing says that the architectures are the cause
        with pytest.raises(RunFailed, match="3 trials in a row failed for the same reason: LookupError: no driver"):
            run(study, broken, space=space, budget=4, sampler="random")
        assert study.tally().waiting == 3
    run(study, toy.evaluate, space=space, budget=4, sampler="random")
    assert [row.control for row in study.rows()] == ["bare", "se everywhere", "eca everywhere", "cbam everywhere"]


def test_what_may_be_the_cause_itself_is_tried_again_once(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    space = toy.space()

    def large(architecture: Architecture) -> Evaluation:
        if architecture.placements:
            raise EvaluationError("out of memory")
        return toy.evaluate(architecture)

    with pytest.raises(RunFailed, match=f"{SAME_AMONG_FINISHED} trials in a row failed"):
        run(study, large, space=space, budget=9, sampler="random")
    assert study.tally().waiting == SAME_AMONG_FINISHED
    with pytest.raises(RunFailed, match=f"{SAME_AMONG_FINISHED} trials in a row failed"):
        run(study, large, space=space, budget=9, sampler="random")
    assert study.tally().waiting == 0
    run(study, toy.evaluate, space=space, budget=2, sampler="random")  # another one, not one of those
    assert len(study._trials(TrialState.FAIL)) == 2 * SAME_AMONG_FINISHED
    assert study.finished() == 2


@pytest.mark.parametrize(("before", "allowed"), [(1, 9), (4, 6), (20, 3)])
def test_an_architecture_that_kills_its_workers_is_given_up(tmp_path: Path, before: int, allowed: int) -> None:
    study = toy.create(tmp_path)
    space = toy.space()
    run(study, toy.evaluate, space=space, budget=before, sampler="random")
    deadly: list[str] = []

    def kills(architecture: Architecture) -> Evaluation:
        deadly.append(architecture.id)
        if architecture.id == deadly[0]:
            raise SystemExit  # nothing is recorded, as if the process were no more
        return toy.evaluate(architecture)

    for _ in range(allowed):
        with pytest.raises(SystemExit):
            run(study, kills, space=space, budget=before + 1, sampler="random")
        assert study.tally().running == 1
    run(study, kills, space=space, budget=before + 1, sampler="random")
    assert study.finished() == before + 1
    assert deadly[0] not in architectures(study)
    assert [reason for _, reason in study.failures()] == [
        f"{allowed} workers, one after the other, died while they evaluated it"
    ]
    assert len(study._trials(TrialState.FAIL)) == allowed


def test_where_all_die_no_architecture_is_the_cause(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    attempts: Counter[str] = Counter()

    def dies(architecture: Architecture) -> Evaluation:
        attempts[architecture.id] += 1
        if attempts[architecture.id] <= MOST_DEATHS + 1:
            raise SystemExit
        return toy.evaluate(architecture)

    for _ in range(6 * (MOST_DEATHS + 1)):
        with pytest.raises(SystemExit):
            run(study, dies, space=toy.space(), budget=6, sampler="random")
    run(study, dies, space=toy.space(), budget=6, sampler="random")
    assert study.finished() == len(attempts) == 6
    assert study.failures() == []


def test_the_sampler_avoids_what_failed() -> None:
    """A block is best everywhere, and takes too much memory on the large maps of the first stage."""
    space = toy.space()
    known: list[Known] = []
    for _ in range(40):
        proposal = propose(space, known, sampler="additive", seed=0)
        assert proposal is not None
        stages = [placement.stage for placement in proposal.architecture.placements if placement.block == "se"]
        values = None if 0 in stages else (0.6 + 0.08 * len(stages), toy.evaluate(proposal.architecture).nominal_ms)
        known.append(Known(id=proposal.architecture.id, params=proposal.params, values=values))
    failed = [entry.values is None for entry in known]
    assert sum(failed[:10]) >= 1
    assert sum(failed[10:]) <= 3  # 24 of these 30 where failures are only left out


def test_a_failure_that_did_not_happen_again_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    space = toy.space()
    known: list[Known] = []
    for _ in range(8):
        proposal = propose(space, known, sampler="additive", seed=0)
        assert proposal is not None
        values = (0.8 + 0.01 * len(known), toy.evaluate(proposal.architecture).nominal_ms)
        known.append(Known(id=proposal.architecture.id, params=proposal.params, values=values))
    failed = [replace(entry, values=None) for entry in known]
    seen: list[Observed] = []
    monkeypatch.setattr("nas.study.gain.suggest", lambda _, observed, *__: seen.append(observed))
    for again in ([], known[6:], [replace(entry, pending=True) for entry in failed[6:]]):
        propose(space, [*known[:6], *failed[6:], *again], sampler="additive", seed=0)
    assert [observed.excess.shape[1] for observed in seen] == [1, 0, 0]
    assert (seen[0].excess[:, 0] > 0).sum() == 2


def test_a_mark_outlives_an_interruption(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    control = toy.space().controls()[1]
    with Worker(study.store) as worker, study.lock():
        trial = study.claim(Proposal(architecture=control.architecture, params=control.choices), worker, toy.space())
        study.requeue(trial, "its worker died", {"deaths": 2})
        again = study.claim_waiting(worker, toy.space())
        assert again is not None
        study.requeue(again, "stopped by the user")
    assert [trial.user_attrs.get("deaths") for trial in study._trials()] == [None, 2, 2]


def test_the_bare_backbone_is_never_given_up(tmp_path: Path) -> None:
    study = toy.create(tmp_path)

    def dies(_architecture: Architecture) -> Evaluation:
        raise SystemExit

    for _ in range(MOST_DEATHS + 2):
        with pytest.raises(SystemExit):
            run(study, dies, space=toy.space(), budget=1)
    run(study, toy.evaluate, space=toy.space(), budget=1)
    assert [row.control for row in study.rows()] == ["bare"]


def test_a_trial_that_was_measured_but_not_told_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = toy.create(tmp_path)
    measured: list[str] = []

    def through_the_cache(architecture: Architecture) -> Evaluation:
        found = study.store.get(architecture, toy.PROTOCOL.hash)
        if found is None:
            measured.append(architecture.id)
            found = toy.evaluate(architecture)
        return found

    def dies(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "_close", dies)  # after the evaluation was kept, before the trial is told
    with pytest.raises(KeyboardInterrupt):
        run(study, through_the_cache, space=toy.space(), budget=1)
    monkeypatch.undo()
    assert study.finished() == 0
    run(study, through_the_cache, space=toy.space(), budget=1)
    assert study.finished() == 1
    assert len(measured) == 1


def test_a_repetition_that_is_cut_off_while_it_is_written_is_repeated_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = toy.create(tmp_path)
    write = study._study._storage.set_trial_param
    written: list[str] = []

    def dies(trial: int, name: str, *arguments: object) -> None:
        if len(written) == 2:
            raise SystemExit
        written.append(name)
        write(trial, name, *arguments)  # type: ignore[arg-type]

    control = next(control for control in toy.space().controls() if len(control.choices) > 4)
    placed, params = control.architecture, dict(control.choices)
    with Worker(study.store) as worker, study.lock():
        study.requeue(study.claim(Proposal(architecture=placed, params=params), worker, toy.space()), "stopped")
    monkeypatch.setattr(study._study._storage, "set_trial_param", dies)
    with pytest.raises(SystemExit), Worker(study.store) as worker, study.lock():
        study.claim_waiting(worker, toy.space())
    monkeypatch.undo()
    assert 0 < len(study._trials()[1].params) < len(params)

    resumed = toy.create(tmp_path)
    run(resumed, toy.evaluate, space=toy.space(), budget=1)
    assert architectures(resumed) == [placed.id]
    assert resumed._trials()[2].params == params


def test_a_trial_is_begun_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = toy.create(tmp_path)
    control = next(control for control in toy.space().controls() if len(control.choices) > 4)
    proposal = Proposal(architecture=control.architecture, params=dict(control.choices), control="some")

    def dies(*_arguments: object) -> None:
        raise SystemExit

    with Worker(study.store) as worker, study.lock():
        with monkeypatch.context() as patch:
            patch.setattr(optuna.storages._rdb.models.TrialModel, "count_past_trials", dies)  # its very last step
            with pytest.raises(SystemExit):
                study.claim(proposal, worker, toy.space())
        assert study._trials() == []
        number = study.claim(proposal, worker, toy.space()).number
    (trial,) = Study.open("toy", toy.url(tmp_path))._trials()
    assert (trial.number, trial.state, trial.params) == (number, TrialState.RUNNING, proposal.params)
    assert {"architecture", "placements", "control", "worker"} <= trial.user_attrs.keys()
