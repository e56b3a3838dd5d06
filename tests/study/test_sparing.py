"""What other workers did is read once, and all of it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import toy
from optuna.trial import TrialState

from nas.study import Study
from nas.study.sampler import propose
from nas.study.worker import Worker

SPACE = toy.space()


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Study, Study]:
    """Return one study, as two processes have it open."""
    return toy.create(tmp_path, resolved=SPACE), toy.create(tmp_path, resolved=SPACE)


def begin(study: Study, worker: Worker) -> optuna.Trial:
    proposal = propose(SPACE, study.tally().known, sampler="random", seed=0)
    assert proposal is not None
    return study.claim(proposal, worker, SPACE)


def state(study: Study) -> list[tuple[int, TrialState, str, dict[str, object]]]:
    trials = study._trials()
    return [(each.number, each.state, each.user_attrs["architecture"], each.user_attrs) for each in trials]


def of_optuna(study: Study) -> list[tuple[int, TrialState, str, dict[str, object]]]:
    storage = optuna.storages.RDBStorage(study.url)
    trials = optuna.load_study(study_name=study.name, storage=storage).trials
    return [(each.number, each.state, each.user_attrs["architecture"], each.user_attrs) for each in trials]


def test_a_trial_in_work_is_read_once(studies: tuple[Study, Study], monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = studies
    read: list[int] = []
    build = optuna.storages.RDBStorage._build_frozen_trial_from_trial_model

    def built(self: optuna.storages.RDBStorage, trial: object) -> optuna.trial.FrozenTrial:
        found = build(self, trial)
        read.append(found.number)
        return found

    monkeypatch.setattr(optuna.storages.RDBStorage, "_build_frozen_trial_from_trial_model", built)
    with Worker(theirs.store) as worker:
        trials = [begin(theirs, worker) for _ in range(6)]
        mine._trials()
        mine._trials()
        read.clear()
        assert [each.number for each in mine._trials(TrialState.RUNNING)] == [0, 1, 2, 3, 4, 5]
        assert read == []
        theirs.finish(trials[2], toy.evaluate(theirs.architecture(trials[2])))
        trials.append(begin(theirs, worker))
        read.clear()
        running = [each.number for each in mine._trials(TrialState.RUNNING)]
        assert running == [0, 1, 3, 4, 5, 6]
        assert sorted(read) == [2, 6]


def test_every_change_is_seen(studies: tuple[Study, Study]) -> None:
    """Begun, finished, failed, queued again, begun from the queue, finished from there: in either process's view."""
    mine, theirs = studies
    with Worker(theirs.store) as worker:
        trials = [begin(theirs, worker) for _ in range(4)]
        assert state(mine) == state(theirs) == of_optuna(mine)
        theirs.finish(trials[1], toy.evaluate(theirs.architecture(trials[1])))
        assert state(mine) == of_optuna(mine)
        with theirs.lock():
            theirs.requeue(trials[0], "for the test")
        assert state(mine) == of_optuna(mine)
        theirs.fail(trials[2], "for the test")
        assert state(mine) == of_optuna(mine)
        with theirs.lock():
            again = theirs.claim_waiting(worker, SPACE)
        assert again is not None
        assert state(mine) == of_optuna(mine)
        again.set_user_attr("noted", "while it runs")  # one that was queued may change
        assert state(mine) == of_optuna(mine)
        theirs.finish(again, toy.evaluate(theirs.architecture(again)))
        assert state(mine) == state(theirs) == of_optuna(mine)
    assert [each[1] for each in state(mine)] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.COMPLETE,
    ]


def test_another_study_in_its_place_is_read_anew(tmp_path: Path) -> None:
    """SQLite gives the numbers of a deleted study's trials again."""
    watching = toy.create(tmp_path, "first", SPACE)
    with Worker(watching.store) as worker:
        for _ in range(3):
            begin(watching, worker)
        watching._trials()
        watching._trials()
        old = dict(watching._storage._begun)
        number = watching.number
        optuna.delete_study(study_name="first", storage=watching.url)
        fresh = toy.create(tmp_path, "second", SPACE)
        assert fresh.number == number
        begin(fresh, worker)
    (begun,) = [trial._trial_id for trial in fresh._trials()]
    assert begun in old
    found = watching._storage._get_trials(number, None, set(old), -1)
    assert [trial.user_attrs for trial in found] == [trial.user_attrs for trial in fresh._trials()]


def test_what_others_did_is_read_before_the_lock_is_taken_where_they_are_many(
    studies: tuple[Study, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = studies
    looks: list[int] = []
    monkeypatch.setattr(mine, "_trials", lambda *states: looks.append(1) or Study._trials(mine, *states))
    mine.tally()
    looks.clear()
    mine.catch_up()
    assert looks == []  # alone, it would be for nothing
    with Worker(theirs.store) as worker:
        for _ in range(3):
            begin(theirs, worker)
        monkeypatch.setattr("nas.study.record.MANY", 3)
        mine.tally()
        looks.clear()
        mine.catch_up()
        assert looks == [1]
