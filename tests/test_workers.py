"""Several processes on one study: together they stop at the budget, and none outlives the first one."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from nas.cli import main
from nas.run import _help
from nas.settings import Settings
from nas.study import Study
from nas.workers import crew


def leave_a_mark(folder: Path) -> None:
    (folder / str(os.getpid())).write_text("begun")


def wait_for_ever(folder: Path) -> None:
    try:
        leave_a_mark(folder)
        time.sleep(600)
    except KeyboardInterrupt:
        (folder / str(os.getpid())).write_text("told to end")
        raise


def fail(_folder: Path) -> None:
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
        replicates = database.execute("SELECT COUNT(*) FROM nas_replicates").fetchone()[0]
    finally:
        database.close()
    assert states == {"COMPLETE": 6}
    assert replicates == 1
    assert "ended with status" not in capfd.readouterr().err  # whether the second one came in time for a trial or not
    assert len((tmp_path / "studies" / "default-digits" / "front.csv").read_text().splitlines()) == 7


@pytest.mark.slow
def test_a_further_worker_searches_but_leaves_the_repetitions_to_the_first(tmp_path: Path) -> None:
    settings = Settings(
        budget=2, limit=300, epochs=1, latency_seconds=0.05, workers_per_device=3, repeats=2, studies=str(tmp_path)
    )
    _help(settings)  # would start two more, which would start two more, if it did not know better
    study = Study.open(settings.study_name, settings.storage_url)
    assert study.finished() == 2
    assert study.replicates() == {}


def test_no_workers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers-per-device", "0"]) == 2
    assert "workers per device must be at least 1, but got 0" in capsys.readouterr().err
