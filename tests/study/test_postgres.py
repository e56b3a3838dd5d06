"""A study in PostgreSQL, which may be away for a while."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
import toy
from optuna.trial import TrialState
from server import Server

from nas.architecture import Architecture
from nas.database import StorageError, is_passing
from nas.evaluation import Evaluation
from nas.store import Store
from nas.study import Study, run
from nas.study.worker import Worker


def create(url: str, name: str = "toy") -> Study:
    return Study.create(name, url, space=toy.space(), protocol=toy.PROTOCOL)


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study._study.get_trials(deepcopy=False)]


def architectures(study: Study) -> list[str]:
    return [row.architecture.id for row in study.rows()]


def test_it_is_the_same_search_as_in_sqlite(postgres: Server, tmp_path: Path) -> None:
    found = []
    for url in (postgres.url, toy.url(tmp_path)):
        study = create(url)
        assert run(study, toy.evaluate, space=toy.space(), budget=8, sampler="tpe", seed=1).finished == 8
        found.append(architectures(study))
        assert set(states(study)) == {TrialState.COMPLETE}
        study.close()
    assert found[0] == found[1]


def test_a_lock_excludes_others_and_is_gone_with_its_session(postgres: Server) -> None:
    first, second = Store(postgres.url), Store(postgres.url)
    got: list[str] = []

    def wait() -> None:
        with second.lock("ask", "a"):
            got.append("second")

    with first.lock("ask", "a") as lock:
        with second.lock("ask", "b"):
            pass  # another study
        thread = threading.Thread(target=wait)
        thread.start()
        while not postgres.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            time.sleep(0.01)
        assert got == []
        assert lock.is_held()
        postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        thread.join(timeout=60)
        assert got == ["second"]
        assert not lock.is_held()
    with first.lock("ask", "a") as lock:
        assert lock.is_held()
    for store in (first, second):
        store.close()


def test_a_server_that_is_away_costs_time_and_nothing_else(
    postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    study = create(postgres.url)
    measured: list[str] = []

    def evaluate(architecture: Architecture) -> Evaluation:
        measured.append(architecture.id)
        if len(measured) == 3:  # in the middle of a trial; it is told while the server is away
            postgres.crash()
            threading.Timer(3.0, postgres.start).start()
        evaluation = toy.evaluate(architecture)
        study.store.put(architecture, toy.PROTOCOL.hash, evaluation)
        return evaluation

    assert run(study, evaluate, space=toy.space(), budget=6, sampler="random").finished == 6
    assert len(measured) == len(set(measured)) == 6
    assert states(study) == [TrialState.COMPLETE] * 6
    assert "the database does not answer" in capsys.readouterr().err
    study.close()


def test_a_lock_that_is_lost_after_a_claim_undoes_it(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    study = create(postgres.url)
    claim = Study.claim
    lost: list[int] = []

    def losing(self: Study, *arguments: object) -> object:
        trial = claim(self, *arguments)  # type: ignore[arg-type]
        if not lost:
            lost.append(trial.number)
            postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        return trial

    monkeypatch.setattr(Study, "claim", losing)
    assert run(study, toy.evaluate, space=toy.space(), budget=3, sampler="random").finished == 3
    assert lost == [0]
    assert states(study) == [TrialState.FAIL] + [TrialState.COMPLETE] * 3
    assert study.failures() == []
    assert study._study.get_trials()[0].user_attrs["reason"] == "interrupted: the study's lock was lost"
    study.close()


def test_schemas_are_made_once_by_many_at_once(postgres: Server) -> None:
    studies: list[Study] = []
    errors: list[BaseException] = []

    def make() -> None:
        try:
            studies.append(create(postgres.url))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({study.number for study in studies}) == 1
    for study in studies:
        study.close()


def test_a_process_keeps_few_connections(postgres: Server) -> None:
    study = create(postgres.url)
    with Worker(study.store):
        run(study, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ((connections,),) = postgres.ask(count)
    assert connections <= 3
    study.close()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg")
    with pytest.raises(StorageError, match="cannot use the database postgresql") as caught:
        create("postgresql+psycopg://me:s3cret@127.0.0.1:1/none")
    assert "s3cret" not in str(caught.value)


def test_a_database_without_studies_stays_as_it_is(postgres: Server) -> None:
    with pytest.raises(StorageError, match="no studies in the database .*; run a search first"):
        Study.open("toy", postgres.url)
    assert postgres.ask("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


def test_sqlite_is_told_from_a_server_that_is_away() -> None:
    def of(error: Exception) -> sa.exc.OperationalError:
        return sa.exc.OperationalError("SELECT 1", {}, error)

    assert is_passing(of(sqlite3.OperationalError("database is locked")))
    assert not is_passing(of(sqlite3.OperationalError("database or disk is full")))
    assert is_passing(of(ConnectionError("server closed the connection unexpectedly")))
    assert not is_passing(ValueError("locked"))
