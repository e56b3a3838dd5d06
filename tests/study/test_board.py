"""The storage that the dashboard sees: all that is stored, what is laid over it, and no way to do harm."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import toy
from optuna.trial import TrialState

from nas.limits import Limits
from nas.study import Board, RefusedError, Study, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("board")
    limits = Limits(slowdown=0.08, parameters=2000)
    study = Study.create("toy", toy.url(made), space=toy.space(), protocol=toy.PROTOCOL, limits=limits)
    run(study, toy.evaluate, space=toy.space(), budget=6, sampler="random")
    study.close()
    toy.create(made, "other").close()
    return made


@pytest.fixture
def study(folder: Path) -> Iterator[Study]:
    opened = Study.open("toy", toy.url(folder))
    yield opened
    opened.close()


def dump(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "studies.db") as connection:
        return list(connection.iterdump())


def test_everything_is_read_as_it_is_stored(study: Study, folder: Path) -> None:
    board = study.board()
    plain = optuna.load_study(study_name="toy", storage=toy.url(folder))
    seen = optuna.load_study(study_name="toy", storage=board)
    assert [trial.params for trial in seen.trials] == [trial.params for trial in plain.trials]
    assert [trial.values for trial in seen.trials] == [trial.values for trial in plain.trials]
    assert seen.user_attrs == plain.user_attrs
    assert seen.directions == plain.directions
    assert seen.metric_names == ["accuracy", "latency_ms"]
    assert board.get_trial(plain.trials[2]._trial_id).number == 2
    assert board.get_trial_id_from_study_id_trial_number(study.number, 2) == plain.trials[2]._trial_id
    assert [each.study_name for each in board.get_all_studies()] == ["toy", "other"]
    assert board.get_n_trials(study.number, TrialState.COMPLETE) == 6


def test_what_is_laid_over_is_seen_and_not_stored(study: Study, folder: Path) -> None:
    before = dump(folder)
    board = study.board()
    board.lay(study.number, {"dashboard:note_ver": 7, "study:metric_names": ["a", "b"]})
    assert board.get_study_system_attrs(study.number)["dashboard:note_ver"] == 7
    (seen, other) = board.get_all_studies()
    assert seen.system_attrs == {"dashboard:note_ver": 7, "study:metric_names": ["a", "b"]}
    assert "dashboard:note_ver" not in other.system_attrs
    assert board.stored(study.number) == {"study:metric_names": ["accuracy", "latency_ms"]}
    board.lay(study.number, {})
    assert board.get_study_system_attrs(study.number) == board.stored(study.number)
    assert dump(folder) == before


def test_constraints_stand_where_the_dashboard_looks(study: Study) -> None:
    board = study.board()
    (first, *_) = board.get_all_trials(study.number, deepcopy=False)
    stored = board._storage.get_trial(first._trial_id)
    # Optuna would count them twice, were they stored there.
    assert stored.constraints == pytest.approx({"parameters": -0.5, "slowdown": 1 / 1.08 - 1}, abs=0.01)
    assert first.system_attrs["constraints"] == [stored.constraints["parameters"], stored.constraints["slowdown"]]
    assert board.get_trial(first._trial_id).system_attrs["constraints"] == first.system_attrs["constraints"]


def writes(board: Board, number: int, trial_id: int) -> dict[str, object]:
    distribution = optuna.distributions.FloatDistribution(0, 1)
    return {
        "create_new_study": lambda: board.create_new_study([optuna.study.StudyDirection.MINIMIZE], "new"),
        "delete_study": lambda: board.delete_study(number),
        "set_study_user_attr": lambda: board.set_study_user_attr(number, "protocol", {}),
        "create_new_trial": lambda: board.create_new_trial(number),
        "set_trial_param": lambda: board.set_trial_param(trial_id, "x", 0.5, distribution),
        "set_trial_state_values": lambda: board.set_trial_state_values(trial_id, TrialState.FAIL),
        "set_trial_intermediate_value": lambda: board.set_trial_intermediate_value(trial_id, 1, 0.5),
        "set_trial_user_attr": lambda: board.set_trial_user_attr(trial_id, "architecture", "x"),
        "set_study_system_attr": lambda: board.set_study_system_attr(number, "study:metric_names", ["x", "y"]),
        "set_trial_system_attr": lambda: board.set_trial_system_attr(trial_id, "fixed_params", {}),
    }


@pytest.mark.parametrize("editable", [False, True])
def test_studies_and_trials_cannot_be_changed(study: Study, folder: Path, editable: bool) -> None:
    before = dump(folder)
    board = study.board(editable=editable)
    attempts = writes(board, study.number, 1)
    abstract = optuna.storages.BaseStorage.__abstractmethods__
    assert set(attempts) == {name for name in abstract if not name.startswith("get_")}
    for attempt in attempts.values():
        with pytest.raises(RefusedError, match="notes and artifacts only"):
            attempt()  # type: ignore[operator]
    assert dump(folder) == before


def test_notes_are_kept_only_where_that_is_allowed(study: Study) -> None:
    with pytest.raises(RefusedError):
        study.board().keep(study.number, {"dashboard:note_ver": 1})
    board = study.board(editable=True)
    wanted = {"dashboard:note_ver": 1, "dashboard:note_str:0": "mine", "artifacts:1": json.dumps(None)}
    assert board.keep(study.number, wanted) == 3
    assert board.keep(study.number, {**wanted, "dashboard:note_ver": 2}) == 1
    assert {**wanted, "dashboard:note_ver": 2}.items() <= study.board().stored(study.number).items()
    board.set_trial_system_attr(1, "artifacts:2", "null")  # that it is gone; it was never there
    assert "artifacts:2" not in board.get_trial(1).system_attrs


def test_a_sealed_study_is_refused_by_the_database_itself(study: Study, folder: Path) -> None:
    before = dump(folder)
    study.seal()
    for attempt in (
        lambda: study._storage.set_study_system_attr(study.number, "dashboard:note_ver", 9),
        lambda: study.note_rungs("none"),
    ):
        with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
            attempt()
        assert "readonly database" in str(caught.value.__cause__)
    assert len(study.rows()) == 6
    assert dump(folder) == before


def test_siblings_are_the_other_studies_of_this_program(study: Study, folder: Path) -> None:
    optuna.create_study(study_name="foreign", storage=toy.url(folder))
    names = {number: sibling and sibling.name for number in range(1, 5) if (sibling := study.sibling(number)) or True}
    assert names == {1: "toy", 2: "other", 3: None, 4: None}
    optuna.delete_study(study_name="foreign", storage=toy.url(folder))


def test_the_pulse_changes_with_what_is_finished(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    seen = [study.pulse()]
    for budget in (1, 2):
        run(study, toy.evaluate, space=toy.space(), budget=budget, sampler="random")
        seen.append(study.pulse())
    assert len(set(seen)) == 3
    assert study.pulse() == seen[-1]
    study.close()


def test_every_trial_has_an_end(study: Study) -> None:
    ends = study.ends()
    assert [end.trial for end in ends] == list(range(6))
    assert {end.outcome for end in ends} == {"finished"}
    assert ends[0].control == "bare"
    assert ends[0].curve == (0.8,)
    assert ends[0].evaluation == study.evaluation(0)
    assert list(ends[0].constraints) == ["parameters", "slowdown"]
    assert ends[0].key == study.board().get_trial_id_from_study_id_trial_number(study.number, 0)
