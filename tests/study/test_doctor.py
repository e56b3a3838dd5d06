"""What a doctor finds wrong with a study, and what is mended."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import toy
from optuna.trial import TrialState
from server import Server

from nas.cli import main
from nas.doctor import examine, treat
from nas.doctor.examination import budget_of
from nas.evaluation import Evaluation
from nas.rungs import StoppedError
from nas.study import Study, run
from nas.study.checkup import space_hash
from nas.study.sampler import propose
from nas.study.worker import Worker

BUDGET = 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with all its files: to be copied, and not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    study = toy.create(folder)
    run(study, toy.evaluate, space=toy.space(), budget=BUDGET, sampler="random")
    study.close()
    assert main(["report", "--studies", str(folder)]) == 0
    return folder


@pytest.fixture
def studies(finished: Path, tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    for path in [finished / "studies.db", *(finished / "toy").iterdir()]:
        (tmp_path / path.relative_to(finished)).write_bytes(path.read_bytes())
    return tmp_path


class Doctor:
    """Calls the verb, and remembers what it said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys
        self.said = ""

    def __call__(self, *flags: str) -> int:
        self._capsys.readouterr()
        status = main(["doctor", "--studies", str(self._folder), "--quick", *flags])
        captured = self._capsys.readouterr()
        self.said = captured.out + captured.err
        return status

    def wrong(self) -> list[str]:
        """Return what the last visit has found to be wrong."""
        return [line.split("WRONG  ")[1] for line in self.said.splitlines() if "  WRONG  " in line]


@pytest.fixture
def doctor(studies: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(studies, capsys)


def change(studies: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(studies / "studies.db")) as connection:
        assert connection.execute(statement, values).rowcount > 0
        connection.commit()


def state(studies: Path) -> tuple[int, int, int]:
    """Return how many trials are finished, in work and waiting."""
    study = Study.open("toy", toy.url(studies))
    tally = study.tally()
    study.close()
    return tally.finished, tally.running, tally.waiting


def go_on(studies: Path, budget: int = BUDGET) -> None:
    study = toy.create(studies)
    run(study, toy.evaluate, space=toy.space(), budget=budget, sampler="random")
    assert study.finished() == budget
    assert len({row.architecture.id for row in study.rows()}) == len(study._trials(TrialState.COMPLETE)) == budget
    study.close()


def begin(studies: Path, *, live: bool) -> Iterator[None]:
    study = toy.create(studies)
    with study.lock():
        proposal = propose(toy.space(), study.tally().known, sampler="random", seed=0)
    assert proposal is not None
    worker = Worker(study.store)
    with worker:
        study.claim(proposal, worker, toy.space())
        if live:
            yield
    if not live:
        yield
    study.close()


def test_a_finished_study_is_sound(studies: Path, doctor: Doctor) -> None:
    before = {path: path.read_bytes() for path in (studies / "toy").iterdir()}
    assert doctor() == 0
    lines = doctor.said.splitlines()
    assert lines[0] == f"the database {studies}/studies.db"
    assert lines[-1] == "sound"
    assert "study toy" in lines
    assert f"  sound  front.csv: {BUDGET} rows, those of the database" in lines
    assert any(
        line.startswith(f"  sound  budget: {BUDGET} architectures finished, none of them twice") for line in lines
    )
    assert {path: path.read_bytes() for path in (studies / "toy").iterdir()} == before
    assert doctor("--repair") == 0  # there is nothing to mend
    assert {path: path.read_bytes() for path in (studies / "toy").iterdir()} == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("report.html", "missing"),
        ("pareto.html", "half"),
        ("front.csv", "empty"),
        ("front.csv", "a folder"),
        ("best.json", "missing"),
        ("best.json", "half"),
    ],
)
def test_files_that_are_missing_or_damaged_are_written_again(
    studies: Path, doctor: Doctor, name: str, damage: str
) -> None:
    path = studies / "toy" / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
        assert doctor("--repair") == 1  # what somebody has put there is not removed
        assert f"{name} is no regular file" in doctor.said
        return
    if damage != "missing":
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    assert doctor() == 1
    assert len(doctor.wrong()) == 1
    assert doctor.said.splitlines()[-1] == (
        f"1 thing is wrong; what can be repaired is by: python run_search.py doctor --studies {studies} --repair"
    )
    assert doctor("--repair") == 0
    assert name == "report.html" or path.read_bytes() == whole


def test_files_of_an_earlier_state_are_written_again(studies: Path, doctor: Doctor) -> None:
    go_on(studies, BUDGET + 2)  # this writes no files
    assert doctor() == 1
    said = doctor.wrong()
    assert said[0].startswith(f"pages: report.html shows {BUDGET} of {BUDGET + 2} finished trials")
    assert said[1].startswith("front.csv: and the database differ in ")
    assert doctor("--repair") == 0


def test_a_best_config_of_something_else_is_written_again(studies: Path, doctor: Doctor) -> None:
    path = studies / "toy" / "best.json"
    content = json.loads(path.read_text())
    for changed, words in (
        ({**content, "id": "0" * 12}, "it was changed"),
        ({**content, "extra": 1}, "must have the keys"),
        ({**content, "architecture": {**content["architecture"], "backbone": "other"}}, "it was changed"),
    ):
        path.write_text(json.dumps(changed))
        assert doctor() == 1
        assert words in doctor.wrong()[0]
        assert doctor("--repair") == 0
        assert json.loads(path.read_text()) == content
    assert main(["export", "--studies", str(studies), "--pick", "trial:1", "--out", str(path)]) == 0
    assert doctor() == 1
    assert "another; the study recommends" in doctor.wrong()[0]
    assert doctor("--repair") == 0


def test_a_trial_whose_worker_died_is_queued_again(studies: Path, doctor: Doctor) -> None:
    for _ in begin(studies, live=False):
        assert doctor() == 1
        assert doctor.wrong()[0].startswith(f"trials in work: trial {BUDGET}: the worker died")
        assert state(studies) == (BUDGET, 1, 0)  # looking changes nothing
        assert doctor("--repair") == 0
        assert state(studies) == (BUDGET, 0, 1)
        assert "1 wait to be repeated by the next search" in doctor.said
    go_on(studies, BUDGET + 1)


def test_a_trial_in_work_is_left_alone(studies: Path, doctor: Doctor) -> None:
    (studies / "toy" / "report.html").unlink()
    for _ in begin(studies, live=True):
        assert doctor() == 0
        assert "sound  trials in work: 1, by workers that live" in doctor.said
        assert "report.html is missing" in doctor.said
        assert "the search that is at work writes it" in doctor.said
        change(studies, "UPDATE trial_values SET value = 0.1 WHERE objective = 0 AND trial_id = 2")
        assert doctor("--repair") == 0  # beside the search
        assert state(studies) == (BUDGET, 1, 0)


def test_rows_of_dead_workers_are_removed_and_those_of_the_living_stay(
    studies: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.study.worker.BEAT_SECONDS", 0.05)
    study = toy.create(studies)
    study.store.beat("elsewhere:1:00")
    change(studies, "UPDATE nas_workers SET beat_at = '2020-01-01 00:00:00'")
    with Worker(study.store) as alive:
        assert doctor() == 1
        assert doctor.wrong() == ["workers: 1 died and left a row; --repair: the rows are removed"]
        assert doctor("--repair") == 0
        assert list(study.store.signs()) == [alive.id]
    study.close()


@pytest.mark.parametrize("damage", ["DELETE FROM nas_evaluations", "UPDATE nas_evaluations SET json = '{\"macs\": 1}'"])
def test_what_was_measured_and_is_gone_is_evaluated_again(studies: Path, doctor: Doctor, damage: str) -> None:
    study = toy.create(studies)
    lost = study._trials()[2].user_attrs["architecture"]
    study.close()
    change(studies, f"{damage} WHERE architecture_id = ?", lost)
    assert doctor() == 1
    assert doctor.wrong() == [
        "evaluations: trial 2 finished, but what was measured is gone; --repair: their trials are taken for failed, "
        "and their architectures evaluated again"
    ]
    assert doctor("--repair") == 0
    assert state(studies) == (BUDGET - 1, 0, 1)
    go_on(studies)
    assert doctor("--repair") == 0


def test_unreadable_evaluations_that_no_trial_has_are_removed(studies: Path, doctor: Doctor) -> None:
    change(studies, "INSERT INTO nas_evaluations VALUES ('0123456789ab', ?, 'nonsense', NULL)", toy.PROTOCOL.hash)
    assert doctor() == 1
    assert doctor.wrong()[0].startswith("evaluations: 1 in the cache cannot be read: 0123456789ab")
    assert doctor("--repair") == 0


def test_figures_that_differ_from_the_cache_are_set_right(studies: Path, doctor: Doctor) -> None:
    study = toy.create(studies)
    expected = [trial.values for trial in study._trials()]
    study.close()
    change(studies, "UPDATE trial_values SET value = 0.123 WHERE objective = 0 AND trial_id = 2")
    change(studies, "UPDATE trial_user_attributes SET value_json = '9.0' WHERE trial_id = 4 AND key = 'latency_ratio'")
    assert doctor() == 1
    assert doctor.wrong()[0].startswith("evaluations: trials 1, 3 and the cache say different figures")
    assert doctor("--repair") == 0
    again = toy.create(studies)
    assert [trial.values for trial in again._trials()] == expected
    again.close()


def test_an_architecture_that_was_finished_twice_counts_once(studies: Path, doctor: Doctor) -> None:
    study = toy.create(studies)
    first = study._trials()[1]
    with Worker(study.store) as worker:
        again = study._begin(first.params, first.distributions, {**first.user_attrs, "worker": worker.id})
        study._tell(again, toy.evaluate(study.architecture(first)))
    study.close()
    assert doctor() == 1
    assert doctor.wrong()[0].startswith(f"budget: trial {BUDGET} finished what another trial had")
    assert doctor("--repair") == 0
    found = toy.create(studies)
    last = found._trials()[-1]
    assert (last.state, last.user_attrs["reason"]) == (TrialState.FAIL, "interrupted: trial 1 had finished it")
    assert found.finished() == BUDGET
    assert found.tally().waiting == 0
    found.close()


def test_a_cut_off_trial_that_nobody_repeats_is_queued(studies: Path, doctor: Doctor) -> None:
    study = toy.create(studies)
    with Worker(study.store) as worker, study.lock():
        proposal = propose(toy.space(), study.tally().known, sampler="random", seed=0)
        assert proposal is not None
        trial = study.claim(proposal, worker, toy.space())
        study._end(trial.number, "interrupted: and then the power went")
    study.close()
    assert doctor() == 1
    assert doctor.wrong()[0].startswith(f"trials cut off: trial {BUDGET}: no other trial has the architecture")
    assert doctor("--repair") == 0
    assert state(studies) == (BUDGET, 0, 1)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM nas_architectures WHERE id = ?", "architectures: 1 that trials name are not kept: "),
        ("UPDATE nas_architectures SET json = '{}' WHERE id = ?", "architectures: 1 are damaged, and no longer what"),
        (
            "UPDATE nas_architectures SET json = replace(json, 'toy', 'yot') WHERE id = ?",
            "architectures: 1 are damaged, and no longer what",
        ),
        (
            "DELETE FROM trial_user_attributes WHERE key = 'architecture' AND value_json = '\"' || ? || '\"'",
            "architectures: trial 2 name no architecture",
        ),
    ],
)
def test_what_only_a_copy_can_mend(studies: Path, doctor: Doctor, statement: str, words: str) -> None:
    assert main(["backup", "--studies", str(studies), "--out", str(studies / "copy.db")]) == 0
    study = toy.create(studies)
    third = study._trials()[2].user_attrs["architecture"]
    study.close()
    change(studies, statement, third)
    assert doctor("--repair") == 1
    assert doctor.wrong()[0].startswith(words)
    assert "no command repairs it" in doctor.said.splitlines()[-1]
    assert "put back a copy" in doctor.said.splitlines()[-1]
    for path in studies.glob("studies.db*"):
        path.unlink()
    (studies / "copy.db").rename(studies / "studies.db")
    assert doctor() == 0


@pytest.mark.parametrize("key", ["protocol", "space"])
def test_a_space_and_a_protocol_that_were_changed(studies: Path, doctor: Doctor, key: str) -> None:
    study = toy.create(studies)
    assert space_hash(study.space) == toy.space().hash == study.attributes["space_hash"]
    changed = {**study.attributes[key], **({"epochs": 7} if key == "protocol" else {"init": "other"})}
    study.close()
    change(studies, "UPDATE study_user_attributes SET value_json = ? WHERE key = ?", json.dumps(changed), key)
    assert doctor("--repair") == 1
    assert doctor.wrong()[0].startswith(f"space, protocol: the {key} has the hash ")
    change(studies, "UPDATE study_user_attributes SET value_json = '[]' WHERE key = ?", key)
    assert doctor("--repair") == 1


def test_files_of_trainings_that_nothing_goes_on_with_are_removed(studies: Path, doctor: Doctor) -> None:
    study = toy.create(studies)
    with Worker(study.store) as worker, study.lock():
        proposal = propose(toy.space(), study.tally().known, sampler="random", seed=0)
        assert proposal is not None
        trial = study.claim(proposal, worker, toy.space())
    study.stop(trial, StoppedError("weak", (0.5,), toy.evaluate(proposal.architecture)))
    done = study._trials()[0].user_attrs["architecture"]
    study.close()
    folder = studies / "toy" / "stopped"
    folder.mkdir()
    for identifier in (proposal.architecture.id, done, "0" * 12):
        (folder / f"{identifier}-{toy.PROTOCOL.hash}.pt").write_bytes(b"weights")
    assert doctor() == 1
    assert "stopped trainings: 2 files of trainings that nothing will go on with" in doctor.said
    assert doctor("--repair") == 0
    assert [path.name.split("-")[0] for path in folder.iterdir()] == [proposal.architecture.id]
    assert "1 stopped early" in doctor.said


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_stay(studies: Path, doctor: Doctor) -> None:
    with closing(os.popen("echo $$")) as shell:
        gone = shell.read().strip()
    made = {
        f".report.html.{gone}.140.tmp": 100.0,  # a minute and more ago, by a process that is gone
        f".front.csv.{gone}.140.tmp": 0.0,
        f".best.json.{os.getpid()}.140.tmp": 100.0,
        ".nobody.tmp": 7200.0,
    }
    for name, age in made.items():
        path = studies / "toy" / name
        path.write_text("half")
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    assert doctor() == 1
    assert doctor.wrong()[0].startswith("temporary files: 2 that crashes have left: .nobody.tmp, .report.html.")
    assert doctor("--repair") == 0
    left = {path.name for path in (studies / "toy").glob(".*.tmp")}
    assert left == {f".front.csv.{gone}.140.tmp", f".best.json.{os.getpid()}.140.tmp"}


def test_evaluations_that_no_trial_has_are_said_and_kept(studies: Path, doctor: Doctor) -> None:
    study = toy.create(studies)
    proposal = propose(toy.space(), study.tally().known, sampler="random", seed=0)
    assert proposal is not None
    study.store.put(proposal.architecture, toy.PROTOCOL.hash, toy.evaluate(proposal.architecture))
    study.close()
    assert doctor("--repair") == 0
    assert "1 more under this protocol are reused if they are proposed" in doctor.said


def test_all_studies_of_a_database_or_the_one_that_is_named(studies: Path, doctor: Doctor) -> None:
    other = toy.create(studies, "other")
    run(other, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    other.close()
    optuna.create_study(study_name="not-ours", storage=toy.url(studies))
    assert doctor() == 1
    assert "study other" in doctor.said
    assert "not-ours" not in doctor.said
    assert doctor("--study", "toy") == 0
    assert "study other" not in doctor.said
    assert doctor("--repair") == 0
    assert (studies / "other" / "report.html").is_file()
    assert doctor("--study", "missing") == 2
    assert "no study 'missing' in the database; its studies: not-ours, other, toy" in doctor.said
    assert doctor("--study", "not-ours") == 2


def test_a_study_without_a_trial_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.create(tmp_path).close()
    doctor = Doctor(tmp_path, capsys)
    assert doctor("--repair") == 0
    assert "best.json: none yet, as no trial has finished" in doctor.said


def test_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor = Doctor(tmp_path, capsys)
    assert doctor("--repair") == 2
    assert "run a search first" in doctor.said
    assert list(tmp_path.iterdir()) == []


def test_the_budget_is_that_of_the_latest_search(tmp_path: Path) -> None:
    study = Study.create("toy", toy.url(tmp_path), space=toy.space(), protocol=toy.PROTOCOL)
    assert budget_of(study) is None
    study.close()
    inputs = {"command": "python run_search.py --data 'my data' --budget 12 --seed 0"}
    study = Study.create("toy", toy.url(tmp_path), space=toy.space(), protocol=toy.PROTOCOL, inputs=inputs)
    assert budget_of(study) == 12
    study.close()


def test_the_network_of_the_best_config_is_built(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    built = nn.Linear(999, 1)  # 1000 parameters, as toy.evaluate says of the bare backbone
    monkeypatch.setattr("nas.export.build", lambda architecture, content: built)
    (database, study) = examine(toy.url(studies), studies)
    best = next(finding for finding in study.findings if finding.check == "best.json")
    recorded = json.loads((studies / "toy" / "best.json").read_text())["evidence"]["parameters"]
    assert database.is_sound
    assert best.is_sound == (recorded == 1000)
    monkeypatch.setattr("nas.export.build", lambda architecture, content: nn.Linear(recorded - 1, 1))
    assert all(chart.is_sound for chart in examine(toy.url(studies), studies))
    monkeypatch.setattr("nas.export.build", lambda architecture, content: nn.Linear(5, 1))
    (_, study) = examine(toy.url(studies), studies)
    (wrong,) = [finding for finding in study.findings if not finding.is_sound]
    assert wrong.words == f"builds a network of 6 parameters, but {recorded} were recorded"
    assert not wrong.is_mendable
    monkeypatch.undo()
    (_, study) = examine(toy.url(studies), studies)  # timm knows no backbone "toy"
    (wrong,) = [finding for finding in study.findings if not finding.is_sound]
    assert wrong.words.startswith("does not build: BackboneError: timm knows no backbone 'toy'")


@pytest.mark.slow
def test_a_study_in_postgresql(tmp_path: Path, postgres: Server) -> None:
    url = postgres.url
    study = Study.create("toy", url, space=toy.space(), protocol=toy.PROTOCOL)
    lost: list[str] = []

    def evaluate(architecture: toy.Architecture) -> Evaluation:
        found = toy.evaluate(architecture)
        lost.append(architecture.id)
        return dataclasses.replace(found, train_seconds=1.0)

    run(study, evaluate, space=toy.space(), budget=5, sampler="random")
    with study._storage.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM nas_evaluations WHERE architecture_id = %s", (lost[3],))
        connection.exec_driver_sql("UPDATE trial_values SET value = 0.5 WHERE trial_id = 2 AND objective = 0")
    study.close()
    charts = examine(url, tmp_path, build=False)
    assert not charts[1].is_sound
    done = treat(url, tmp_path, charts)
    assert any("1 trials taken for cut off" in words for words in done)
    assert all(chart.is_sound for chart in examine(url, tmp_path, build=False))
    study = Study.open("toy", url)
    assert study.tally().waiting == 1
    run(study, evaluate, space=toy.space(), budget=5, sampler="random")
    assert study.finished() == 5
    study.close()
    examined = examine(url, tmp_path, build=False)
    treat(url, tmp_path, examined)
    assert all(chart.is_sound for chart in examine(url, tmp_path, build=False))
