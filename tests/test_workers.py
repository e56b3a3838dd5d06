"""Several processes on one study: together they stop at the budget, and none outlives the first one."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cli import main
from nas.run import _help
from nas.settings import Settings
from nas.study import Study
from nas.workers import crew


def leave_a_mark(folder: Path, number: int, ready: Callable[[], None]) -> None:
    (folder / str(os.getpid())).write_text(f"begun {number}")
    ready()


def come_late(folder: Path, number: int, ready: Callable[[], None]) -> None:
    time.sleep(1.0)
    leave_a_mark(folder, number, ready)


def wait_for_ever(folder: Path, number: int, ready: Callable[[], None]) -> None:
    try:
        leave_a_mark(folder, number, ready)
        time.sleep(600)
    except KeyboardInterrupt:
        (folder / str(os.getpid())).write_text("told to end")
        raise


def fail(_folder: Path, _number: int, _ready: Callable[[], None]) -> None:
    raise ValueError("no such\nthing")


def marks(folder: Path, count: int) -> list[Path]:
    """Wait until so many processes have begun."""
    deadline = time.monotonic() + 60
    while len(found := list(folder.iterdir())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_so_many_further_processes_work_and_are_waited_for(tmp_path: Path) -> None:
    with crew(leave_a_mark, tmp_path, 2):
        pass
    assert len(list(tmp_path.iterdir())) == 2
    with crew(leave_a_mark, tmp_path, 0):
        pass
    assert len(list(tmp_path.iterdir())) == 2


def test_the_work_begins_when_all_are_ready(tmp_path: Path) -> None:
    with crew(come_late, tmp_path, 2):
        assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["begun 1", "begun 2"]


def test_an_exception_ends_them(tmp_path: Path) -> None:
    begun: list[Path] = []

    def interrupted() -> None:
        with crew(wait_for_ever, tmp_path, 2):
            begun.extend(marks(tmp_path, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.read_text() for path in begun] == ["told to end"] * 2
    for path in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def test_one_that_fails_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with crew(fail, tmp_path, 1):
        pass
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["worker 2: no such thing", "worker 2 of 2 ended with status 1"]


@pytest.mark.slow
def test_a_search_with_two_workers_keeps_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "--budget 6 --limit 300 --epochs 1 --latency-seconds 0.1 --sampler random --repeats 1 --workers-per-device 2"
    )
    assert main(words.split()) == 0
    database = sqlite3.connect(tmp_path / "studies" / "studies.db")
    try:
        states = dict(database.execute("SELECT state, COUNT(*) FROM trials GROUP BY state"))
        workers = database.execute("SELECT DISTINCT value_json FROM trial_user_attributes WHERE key = 'worker'")
        assert len(workers.fetchall()) == 2
        replicates = database.execute("SELECT COUNT(*) FROM nas_replicates").fetchone()[0]
    finally:
        database.close()
    assert states == {"COMPLETE": 6}
    assert replicates == 1
    assert "ended with status" not in capfd.readouterr().err
    assert len((tmp_path / "studies" / "default-digits" / "front.csv").read_text().splitlines()) == 7


@pytest.mark.slow
def test_a_further_worker_searches_and_trains_its_share(tmp_path: Path) -> None:
    settings = Settings(
        budget=2, limit=300, epochs=1, latency_seconds=0.05, workers_per_device=3, repeats=6, studies=str(tmp_path)
    )
    told: list[int] = []
    _help(settings, 1, lambda: told.append(_finished(settings)))
    assert told == [0]
    study = Study.open(settings.study_name, settings.storage_url)
    assert study.finished() == 2
    bare = study.rows()[0].architecture
    assert [each.seed for each in study.replicates()[bare.id]] == [
        seed for seed in range(1, 7) if (int(bare.id, 16) + seed) % 3 == 1
    ]
    study.close()


def _finished(settings: Settings) -> int:
    study = Study.open(settings.study_name, settings.storage_url)
    count = study.finished()
    study.close()
    return count


def test_no_workers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers-per-device", "0"]) == 2
    assert "workers per device must be at least 1, but got 0" in capsys.readouterr().err
