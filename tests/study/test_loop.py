"""The ask/tell loop: exact budgets, failures, kills, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import toy
from optuna.trial import TrialState

from nas.architecture import Architecture
from nas.database import StorageError
from nas.evaluation import Evaluation
from nas.study import Study, StudyError, run
from nas.study.binding import differences
from nas.study.sampler import Proposal
from nas.study.worker import Worker


def states(folder: Path) -> list[TrialState]:
    study = optuna.load_study(study_name="toy", storage=toy.url(folder))
    found = [trial.state for trial in study.trials]
    study._storage.remove_session()
    return found


def architectures(study: Study) -> list[str]:
    return [row.architecture.id for row in study.rows()]


def test_a_run_finishes_exactly_the_budget(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    outcome = run(study, toy.evaluate, space=toy.space(), budget=12, sampler="random")
    assert outcome.finished == 12
    assert not outcome.exhausted
    assert len(set(architectures(study))) == 12
    assert any(row.on_front for row in study.rows())


def test_a_larger_budget_goes_on_and_the_same_budget_does_nothing(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    run(study, toy.evaluate, space=toy.space(), budget=6, sampler="tpe")
    first = architectures(study)
    study.close()
    resumed = toy.create(tmp_path)
    run(resumed, toy.evaluate, space=toy.space(), budget=6, sampler="tpe")
    assert architectures(resumed) == first
    run(resumed, toy.evaluate, space=toy.space(), budget=10, sampler="tpe")
    assert architectures(resumed)[:6] == first
    assert len(architectures(resumed)) == 10


def test_a_resumed_search_is_the_search_that_was_never_stopped(tmp_path: Path) -> None:
    for name, budgets in (("whole", (14,)), ("parts", (3, 5, 9, 14))):
        for budget in budgets:
            study = toy.create(tmp_path, name)
            run(study, toy.evaluate, space=toy.space(), budget=budget, sampler="tpe", seed=3)
            study.close()
    whole, parts = (Study.open(name, toy.url(tmp_path)) for name in ("whole", "parts"))
    assert architectures(whole) == architectures(parts)


def test_a_space_smaller_than_the_budget_ends_the_run(tmp_path: Path) -> None:
    space = toy.space(("simam",), stages=(0, 1))
    study = toy.create(tmp_path, resolved=space)
    outcome = run(study, toy.evaluate, space=space, budget=100, sampler="random")
    assert outcome.exhausted
    assert outcome.finished == space.size() + 3  # the uniform controls are not in this space


def test_a_worker_that_was_taken_for_dead_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = toy.create(tmp_path)

    def interrupt(architecture: Architecture) -> Evaluation:
        monkeypatch.setattr("nas.study.worker.Watch.is_dead", lambda *_: True)
        toy.create(tmp_path).repair()
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, interrupt, space=toy.space(), budget=2, sampler="random")
    assert study.tally().waiting == 1
    assert study.tally().running == 0


def test_a_retry_whose_architecture_was_delivered_late_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = toy.create(tmp_path)
    with Worker(study.store) as worker:
        with study.lock():
            trial = study.claim(
                Proposal(architecture=Architecture(backbone="toy"), control="bare"), worker, toy.space()
            )
            study._study.enqueue_trial({}, user_attrs={"architecture": Architecture(backbone="toy").id})
        assert study.finish(trial, toy.evaluate(Architecture(backbone="toy")))
    run(study, toy.evaluate, space=toy.space(), budget=3, sampler="random")
    assert len(architectures(study)) == len(set(architectures(study))) == 3
    assert study.tally().waiting == study.tally().running == 0
    assert study.failures() == []


def test_a_database_that_is_removed_ends_the_run(tmp_path: Path) -> None:
    study = toy.create(tmp_path)

    def remove(architecture: Architecture) -> Evaluation:
        if architecture.placements:
            (tmp_path / "studies.db").unlink()
        return toy.evaluate(architecture)

    with pytest.raises((StorageError, sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)):
        run(study, remove, space=toy.space(), budget=6, sampler="random")


def test_a_study_without_a_trial_takes_another_space(tmp_path: Path) -> None:
    toy.create(tmp_path).close()
    space = toy.space(("se", "simam"))
    run(toy.create(tmp_path, resolved=space), toy.evaluate, space=space, budget=1)
    with pytest.raises(StudyError, match="has another space, protocol or limits"):
        toy.create(tmp_path)


def test_an_interrupted_trial_is_repeated_first(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    stopped: list[str] = []

    def interrupt(architecture: Architecture) -> Evaluation:
        if len(study.rows()) == 2:
            stopped.append(architecture.id)
            raise KeyboardInterrupt
        return toy.evaluate(architecture)

    with pytest.raises(KeyboardInterrupt):
        run(study, interrupt, space=toy.space(), budget=5)
    assert study.tally().running == 0
    assert study.failures() == []
    run(study, toy.evaluate, space=toy.space(), budget=5)
    assert architectures(study)[2] == stopped[0]
    assert study.finished() == 5


def test_on_trial_sees_every_trial(tmp_path: Path) -> None:
    seen: list[int] = []
    run(
        toy.create(tmp_path),
        toy.evaluate,
        space=toy.space(),
        budget=4,
        on_trial=lambda study: seen.append(study.finished()),
    )
    assert seen == [1, 2, 3, 4]


def test_a_run_that_is_to_stop_starts_no_further_trial(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    outcome = run(study, toy.evaluate, space=toy.space(), budget=5, stop=lambda: study.finished() == 2)
    assert outcome.interrupted
    assert outcome.finished == study.finished() == 2
    assert study.tally().running == study.tally().waiting == 0
    outcome = run(study, toy.evaluate, space=toy.space(), budget=5, stop=lambda: study.finished() == 5)
    assert outcome.finished == 5
    assert not outcome.interrupted  # the last trial in hand was the last one of all


def test_a_budget_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the budget must be at least 1 trial, but got 0"):
        run(toy.create(tmp_path), toy.evaluate, space=toy.space(), budget=0)


def test_another_space_or_protocol_is_refused_with_the_difference(tmp_path: Path) -> None:
    run(toy.create(tmp_path), toy.evaluate, space=toy.space(), budget=1)
    with pytest.raises(StudyError, match=r"blocks\.cbam: \{.* -> \"absent\""):
        toy.create(tmp_path, resolved=toy.space(("se", "eca", "simam")))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 101, "semi;colon"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="a study's name must be letters"):
        toy.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    toy.create(tmp_path, "here").close()
    with pytest.raises(StudyError, match="no study 'there' in the database; its studies: here"):
        Study.open("there", toy.url(tmp_path))


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    toy.create(tmp_path).close()
    optuna.create_study(study_name="foreign", storage=toy.url(tmp_path)).ask()
    for make in (lambda: Study.open("foreign", toy.url(tmp_path)), lambda: toy.create(tmp_path, "foreign")):
        with pytest.raises(StudyError, match="was not made by this program"):
            make()


def test_a_study_whose_making_was_cut_off_is_made_to_the_end(tmp_path: Path) -> None:
    toy.create(tmp_path).close()
    optuna.create_study(study_name="half", storage=toy.url(tmp_path), directions=["maximize", "minimize"])
    study = toy.create(tmp_path, "half")
    run(study, toy.evaluate, space=toy.space(), budget=1)
    assert study.protocol == toy.PROTOCOL


def test_differences_name_the_path() -> None:
    old = {"protocol": {"epochs": 3, "seed": 0}, "space": [1]}
    new = {"protocol": {"epochs": 5, "seed": 0}, "space": [1, 2]}
    assert differences(old, new) == ["protocol.epochs: 3 -> 5", "space: [1] -> [1, 2]"]


def start(folder: Path, budget: int, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, toy.__file__, str(folder), str(budget), str(seconds)])


def begun(folder: Path) -> list[str]:
    log = folder / "begun.log"
    return log.read_text().split() if log.exists() else []


@pytest.mark.slow
def test_killed_in_the_middle_of_a_trial_three_times(tmp_path: Path) -> None:
    finished: list[str] = []
    for target in (2, 5, 7):
        process = start(tmp_path, budget=9, seconds=0.4)
        while len(begun(tmp_path)) < target:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)  # at once: the trial that has just begun takes no more than its 0.4 s
        process.wait()
        assert TrialState.RUNNING in states(tmp_path)
        assert set(finished) <= set(architectures(Study.open("toy", toy.url(tmp_path))))
        finished = architectures(Study.open("toy", toy.url(tmp_path)))
    process = start(tmp_path, budget=9, seconds=0.0)
    assert process.wait(timeout=60) == 0

    study = Study.open("toy", toy.url(tmp_path))
    assert len(architectures(study)) == len(set(architectures(study))) == 9
    assert TrialState.RUNNING not in states(tmp_path)
    assert TrialState.WAITING not in states(tmp_path)
    # Every kill cost one trial, which was begun anew; nothing else was begun twice.
    assert len(begun(tmp_path)) == 9 + 3
    # And the search is the one that was never killed.
    run(toy.create(tmp_path, "whole"), toy.evaluate, space=toy.space(), budget=9, sampler="tpe", seed=0)
    assert architectures(study) == architectures(Study.open("whole", toy.url(tmp_path)))


@pytest.mark.slow
def test_two_processes_share_a_budget(tmp_path: Path) -> None:
    processes = [start(tmp_path, budget=10, seconds=0.1) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    study = Study.open("toy", toy.url(tmp_path))
    assert len(architectures(study)) == len(set(architectures(study))) == 10
    assert len(begun(tmp_path)) == 10
    assert set(states(tmp_path)) == {TrialState.COMPLETE}


def test_a_worker_that_was_taken_for_dead_may_still_deliver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = toy.create(tmp_path)
    measured: list[str] = []

    def slow(architecture: Architecture) -> Evaluation:
        cached = study.store.get(architecture, toy.PROTOCOL.hash)
        if cached is not None:
            return cached
        measured.append(architecture.id)
        if len(measured) == 2:  # while this one works, another process repairs the study
            monkeypatch.setattr("nas.study.worker.Watch.is_dead", lambda *_: True)
            assert toy.create(tmp_path).repair() == 1
            monkeypatch.undo()
        evaluation = toy.evaluate(architecture)
        study.store.put(architecture, toy.PROTOCOL.hash, evaluation)
        return evaluation

    run(study, slow, space=toy.space(), budget=4, sampler="random")
    assert len(architectures(study)) == len(set(architectures(study))) == 4
    assert len(measured) == len(set(measured)) == 4
    assert states(tmp_path).count(TrialState.FAIL) == 1
    assert study.failures() == []


def test_a_living_worker_is_not_taken_for_dead(tmp_path: Path) -> None:
    first = start(tmp_path, budget=3, seconds=0.5)
    while not begun(tmp_path):
        time.sleep(0.02)
    study = toy.create(tmp_path)
    assert study.repair() == 0
    assert study.tally().running == 1
    assert first.wait(timeout=60) == 0
