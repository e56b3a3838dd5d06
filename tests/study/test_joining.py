"""What nobody proposed joins a study: once, by one process, and at nobody's cost."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from optuna.trial import TrialState

from nas.architecture import Architecture
from nas.evaluation import OUT_OF_MEMORY, Evaluation, EvaluationError
from nas.limits import BeyondLimitsError, Limits
from nas.rungs import StoppedError
from nas.study import Study, join, run
from nas.study.sampler import Proposal
from nas.study.worker import Worker

BUDGET = 6


def searched(folder: Path, budget: int = BUDGET) -> Study:
    study = toy.create(folder)
    run(study, toy.evaluate, space=toy.space(), budget=budget, sampler="random")
    return study


def fresh(study: Study, count: int = 1) -> list[Architecture]:
    """Architectures of the space that the study does not know."""
    known = {entry.id for entry in study.tally().known}
    found = (each for each in toy.space().enumerate() if len(each.placements) == 2 and each.id not in known)
    return list(itertools.islice(found, count))


def ids(study: Study) -> list[str]:
    found = [trial.user_attrs["architecture"] for trial in study._trials(TrialState.COMPLETE)]
    assert len(set(found)) == len(found)
    return found


def never(architecture: Architecture) -> Evaluation:
    raise AssertionError(f"evaluated again: {architecture.describe()}")


@pytest.mark.parametrize("sampler", ["additive", "tpe", "random"])
def test_what_joined_is_a_trial_that_the_budget_does_not_pay(tmp_path: Path, sampler: str) -> None:
    study = searched(tmp_path)
    new = fresh(study, 3)
    for architecture in new:
        assert join(study, toy.evaluate, architecture, space=toy.space(), explains=4) == ""
    assert study.joined(4) == [BUDGET, BUDGET + 1, BUDGET + 2]
    assert study.joined(5) == []
    assert study.tally().spent == BUDGET
    assert study.finished() == BUDGET + 3
    rows = {row.architecture.id: row for row in study.rows()}
    assert all(rows[each.id].accuracy == toy.evaluate(each).accuracy for each in new)
    # A search that goes on knows them, and trains as many of its own as it is asked for.
    run(study, toy.evaluate, space=toy.space(), budget=BUDGET + 14, sampler=sampler)
    assert study.tally().spent == BUDGET + 14
    assert len(ids(study)) == BUDGET + 17


def test_what_is_finished_does_not_become_a_trial(tmp_path: Path) -> None:
    study = searched(tmp_path)
    for row in study.rows():
        assert join(study, never, row.architecture, space=toy.space(), explains=4) == ""
    assert len(study._trials()) == BUDGET


def test_what_was_asked_before_is_asked_alike(tmp_path: Path) -> None:
    # The order in which blocks are offered cannot always be read back from what a study keeps of its space.
    study = searched(tmp_path, budget=8)
    other_order = toy.space(("simam", "cbam", "eca", "se"))
    assert other_order.hash == toy.space().hash
    (new,) = fresh(study)
    assert join(study, toy.evaluate, new, space=other_order, explains=4) == ""
    assert study._trials()[8].params == toy.space().answers(new)


def test_the_whole_space_is_known_at_the_end(tmp_path: Path) -> None:
    space = toy.space(("simam", "se"), stages=(0, 1))
    study = toy.create(tmp_path, resolved=space)
    run(study, toy.evaluate, space=space, budget=5, sampler="random")
    known = {row.architecture.id for row in study.rows()}
    new = next(each for each in space.enumerate() if each.id not in known)
    join(study, toy.evaluate, new, space=space, explains=4)
    assert run(study, toy.evaluate, space=space, budget=100, sampler="additive").exhausted
    assert len(ids(study)) == space.size() + 2  # eca and cbam everywhere are not in this space


def test_a_control_that_the_study_lacks_is_its_own(tmp_path: Path) -> None:
    study = searched(tmp_path, budget=1)
    control = toy.space().controls()[1]
    assert join(study, toy.evaluate, control.architecture, space=toy.space(), explains=0) == ""
    assert [row.control for row in study.rows()] == ["bare", control.label]
    assert study.tally().spent == 2
    assert study.joined(0) == []


def test_an_interruption_leaves_nothing_behind_that_others_would_do(tmp_path: Path) -> None:
    study = searched(tmp_path)
    (new,) = fresh(study)

    def interrupt(_: Architecture) -> Evaluation:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join(study, interrupt, new, space=toy.space(), explains=4)
    tally = study.tally()
    assert (tally.running, tally.waiting, tally.spent, tally.finished) == (0, 0, BUDGET, BUDGET)
    assert study.failures() == []
    assert join(study, toy.evaluate, new, space=toy.space(), explains=4) == ""
    assert study.joined(4) == [BUDGET + 1]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import toy
from nas.study import join
study = toy.create(Path(sys.argv[1]))
known = {entry.id for entry in study.tally().known}
new = next(each for each in toy.space().enumerate() if len(each.placements) == 2 and each.id not in known)
join(study, lambda _: os.kill(os.getpid(), signal.SIGKILL), new, space=toy.space(), explains=4)
"""


def test_a_kill_leaves_nothing_behind_either(tmp_path: Path) -> None:
    study = searched(tmp_path)
    (new,) = fresh(study)
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(Path(toy.__file__).parent)], check=False)
    assert died.returncode == -9
    assert study.tally().checking == study.tally().running == 1
    assert study.in_work(new) == BUDGET
    # A search finds that its worker died, and does not repeat what it never asked for.
    run(study, toy.evaluate, space=toy.space(), budget=BUDGET, sampler="random")
    assert study.tally().running == study.tally().waiting == 0
    assert len(ids(study)) == BUDGET
    assert join(study, toy.evaluate, new, space=toy.space(), explains=4) == ""
    assert len(ids(study)) == BUDGET + 1
    assert study.failures() == []


def test_what_another_process_has_in_work_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.study.joining.POLL_SECONDS", 0.01)
    study = searched(tmp_path)
    (new,) = fresh(study)
    params = toy.space().answers(new) or {}
    waited: list[int] = []
    with Worker(study.store) as worker:
        with study.lock():
            trial = study.claim(Proposal(architecture=new, params=params), worker, toy.space())

        def finish(number: int) -> None:
            waited.append(number)
            study.finish(trial, toy.evaluate(new))

        assert join(study, never, new, space=toy.space(), explains=4, on_wait=finish) == ""
    assert waited == [trial.number]
    assert study.joined(4) == []
    assert study.tally().spent == BUDGET + 1  # it is the search's


def test_a_search_does_not_wait_for_what_it_does_not_pay(tmp_path: Path) -> None:
    study = searched(tmp_path)
    (new,) = fresh(study)

    def search_meanwhile(architecture: Architecture) -> Evaluation:
        # Were the one in work counted, the last trial of the budget would wait for it for ever.
        run(toy.create(tmp_path), toy.evaluate, space=toy.space(), budget=BUDGET + 2, sampler="additive")
        return toy.evaluate(architecture)

    assert join(study, search_meanwhile, new, space=toy.space(), explains=4) == ""
    assert study.tally().spent == BUDGET + 2
    assert len(ids(study)) == BUDGET + 3


def test_one_that_was_taken_for_dead_and_was_not_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = searched(tmp_path)
    (new,) = fresh(study)
    calls: list[str] = []

    def taken_over(architecture: Architecture) -> Evaluation:
        calls.append(architecture.id)
        if len(calls) == 1:
            with monkeypatch.context() as patch:
                patch.setattr("nas.study.worker.Watch.is_dead", lambda *_: True)
                toy.create(tmp_path).repair()
        return toy.evaluate(architecture)

    assert join(study, taken_over, new, space=toy.space(), explains=4) == ""
    assert study.joined(4) == [BUDGET + 1]
    assert len(ids(study)) == BUDGET + 1


def test_what_is_beyond_the_limits_is_turned_away_once(tmp_path: Path) -> None:
    study = Study.create(
        "toy", toy.url(tmp_path), space=toy.space(), protocol=toy.PROTOCOL, limits=Limits(parameters=1001)
    )
    calls: list[str] = []

    def limited(architecture: Architecture) -> Evaluation:
        calls.append(architecture.id)
        evaluation = toy.evaluate(architecture)
        if architecture.placements and evaluation.parameters > 1001:
            raise BeyondLimitsError(study.limits, evaluation)
        return evaluation

    run(study, limited, space=toy.space(), budget=3, sampler="random")
    (new,) = fresh(study)
    rejected, in_a_row = len(study.rejected()), study.tally().rejected
    before = len(calls)
    for _ in range(2):
        assert join(study, limited, new, space=toy.space(), explains=4) == "1,002 parameters, where 1,001 are allowed"
    assert len(calls) == before + 1
    assert len(study.rejected()) == rejected + 1
    assert study.tally().rejected == in_a_row  # the search did not propose it


@pytest.mark.parametrize("error", [EvaluationError(f"{OUT_OF_MEMORY} on toy"), RuntimeError("broken")])
def test_what_fails_says_why_and_may_be_tried_again(tmp_path: Path, error: Exception) -> None:
    study = searched(tmp_path)
    (new,) = fresh(study)

    def fail(_: Architecture) -> Evaluation:
        raise error

    with Worker(study.store) as worker:  # others at work, as for one without memory that is tried once more in a search
        with study.lock():
            other = fresh(study, 2)[1]
            study.claim(Proposal(architecture=other, params=toy.space().answers(other) or {}), worker, toy.space())
        reason = join(study, fail, new, space=toy.space(), explains=4)
    assert str(error) in reason
    assert study.tally().waiting == 0
    assert [text for _, text in study.failures()] == [reason]
    assert join(study, toy.evaluate, new, space=toy.space(), explains=4) == ""


def test_what_was_stopped_early_is_taken_up_again_and_its_share_stays_paid(tmp_path: Path) -> None:
    study = searched(tmp_path)
    (new,) = fresh(study)
    with Worker(study.store) as worker:
        with study.lock():
            trial = study.claim(Proposal(architecture=new, params=toy.space().answers(new) or {}), worker, toy.space())
        study.stop(trial, StoppedError("weak", [0.5], toy.evaluate(new)))
    assert study.tally().spent == BUDGET + 1  # an epoch of the one that a training has here
    assert len(study.stopped()) == 1
    assert join(study, toy.evaluate, new, space=toy.space(), explains=4) == ""
    assert study.stopped() == []
    assert study.joined(4) == [BUDGET + 1]
    assert study.tally().spent == BUDGET + 1
    assert study._trials()[BUDGET + 1].user_attrs["resumes"]


def test_patience_is_for_what_the_search_proposed(tmp_path: Path) -> None:
    study = searched(tmp_path)
    since = study.since_gain()
    bare = toy.evaluate(Architecture(backbone="toy"))  # what is no better than that gains nothing
    for architecture in fresh(study, 3):
        join(study, lambda _: bare, architecture, space=toy.space(), explains=4)
    assert len(study.joined(4)) == 3
    assert study.since_gain() == since
