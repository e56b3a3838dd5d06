"""Further workers on a study: what they are told by the study, what they wait for, whom they refuse, whole runs."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from safetensors import safe_open
from safetensors.torch import save
from server import Server

from nas import warm, work
from nas.cli import main
from nas.database import StorageError
from nas.protocol import Protocol
from nas.settings import Settings
from nas.study import Outcome, Study, StudyError, wait_for, waiting

ROOT = Path(__file__).parents[1]
INPUTS: dict[str, Any] = {
    "data": "digits",
    "data_dir": None,
    "limit": 300,
    "resolution": 16,
    "seed": 0,
    "pretrained": False,
    "checkpoint": None,
    "command": "python run_search.py --budget 9",
}
SPACE = """
from nas.space import SearchSpace
SPACE = SearchSpace(backbones=("test_resnet",), stages=(2, 4), blocks=("se", "eca", "simam"))
"""
QUICK = "--limit 300 --resolution 16 --batch-size 32 --latency-seconds 0.02 --repeats 0 --device cpu --study small"


def make(folder: Path, protocol: Protocol = toy.PROTOCOL, **inputs: object) -> Study:
    """Make a study as a search does."""
    url = toy.url(folder)
    return Study.create("toy", url, space=toy.space(), protocol=protocol, inputs={**INPUTS, **inputs})


def refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["worker", "--studies", str(folder), "--wait", "0", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_what_a_search_is_asked_for_is_kept_in_its_study(tmp_path: Path) -> None:
    first = Settings(budget=9, rungs=(1, 3), sampler="tpe", seed=4, risk=0.2, patience=7)
    make(tmp_path, search=first.search).close()
    larger = dataclasses.replace(first, budget=20)
    study = make(tmp_path, search=larger.search)
    found = work.asked(study, tmp_path / "toy")
    assert found == dataclasses.replace(larger, study="toy", studies=str(tmp_path), storage=study.url)


def test_whoever_finds_a_study_bound_finds_how_it_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = optuna.Study.set_user_attr

    def noted(self: optuna.Study, key: str, value: object) -> None:
        written.append(key)
        write(self, key, value)

    monkeypatch.setattr(optuna.Study, "set_user_attr", noted)
    make(tmp_path, search=Settings().search)
    assert written[-1] == "protocol_hash"
    assert "inputs" in written
    written.clear()
    make(tmp_path, search=Settings().search)
    assert written == []


def test_a_study_of_an_older_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path).close()
    line = refused([], tmp_path, capsys)
    again = f"run its search again once: python run_search.py --budget 9 --study toy --studies {tmp_path}\n"
    assert line == f"run_search.py: study 'toy' does not say how it is searched; {again}"
    study = toy.create(tmp_path, "older")
    with pytest.raises(StudyError, match="again once: search, with the settings it was made with"):
        work.asked(study, tmp_path / "older")


@pytest.mark.parametrize(
    "device", ["cuda: NVIDIA H200", "cpu: Another Processor, 2 threads", "mps: arm"], ids=lambda words: words[:4]
)
def test_another_device_is_refused_with_the_words_of_both(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(toy.PROTOCOL, device=device, latency_device=device)
    make(tmp_path, other, search=Settings().search, data="/not/there").close()
    line = refused(["--device", "cpu"], tmp_path, capsys)
    assert f'protocol.device: "{device}" -> "cpu: ' in line
    assert f'protocol.latency_device: "{device}" -> "' in line
    assert "there" not in line  # nothing was loaded for it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no database "),
        (["--wait", "-1"], "a wait takes at least 0 seconds, but got -1"),
        (["--wait", "nan"], "a wait takes at least 0 seconds, but got nan"),
        (["--storage", "nonsense"], "storage must be a database URL"),
        (["--storage", "postgresql+nodriver://me:secret@127.0.0.1/db"], "cannot use the database postgresql+nodriver"),
    ],
)
def test_what_no_waiting_mends_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(words, tmp_path, capsys)
    assert message in line
    assert "secret" not in line
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_not_there_is_waited_for_until_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.05)
    said: list[str] = []

    def make_soon() -> None:
        toy.create(tmp_path, "another").close()
        while not any("its studies: another" in line for line in said):
            time.sleep(0.01)
        make(tmp_path).close()

    thread = threading.Timer(0.3, make_soon)
    thread.start()
    found = wait_for("toy", toy.url(tmp_path), ask="name one", seconds=60, say=said.append)
    thread.join()
    assert found.name == "toy"
    assert said[0].startswith("waiting for the study, 60 s at most: no database ")
    assert any("no study 'toy' in the database; its studies: another" in line for line in said)
    with pytest.raises(StudyError, match="name one; the database has: another, toy"):
        wait_for(None, toy.url(tmp_path), ask="name one", seconds=0, say=said.append)


def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="needs psycopg, PostgreSQL's driver")
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.05)
    said: list[str] = []
    with pytest.raises(StorageError, match=r"cannot use the database .*me:\*\*\*@127.0.0.1:1/db: "):
        wait_for("toy", "postgresql+psycopg://me:secret@127.0.0.1:1/db", ask="", seconds=0.2, say=said.append)
    assert len(said) == 1
    assert "secret" not in said[0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "the budget of 5 is spent"),
        ({"interrupted": True}, "stopped before the budget of 5 is spent; the same command goes on"),
        ({"exhausted": True}, "every architecture of the space was tried"),
        ({"stalled": True}, "the front has not moved beyond noise for as long as the patience allows"),
        ({"too_costly": True}, "too many architectures in a row were beyond the limits"),
    ],
)
def test_it_says_why_it_ends(how: dict[str, bool], words: str) -> None:
    assert work.ending(Outcome(finished=5, **how), 5) == words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SPACE)
    return tmp_path


def search(*words: str) -> None:
    assert main(["--space", "small.py", *QUICK.split(), *words]) == 0


def ask_for(budget: int, url: str = "sqlite:///studies/studies.db") -> None:
    """Raise the budget, as a search does that then does nothing else."""
    study = Study.open("small", url)
    assert study.inputs is not None
    assert study.search is not None
    study._study.set_user_attr("inputs", {**study.inputs, "search": {**study.search, "budget": budget}})
    study.close()


def start(*words: str, host: str = "", **environment: str) -> subprocess.Popen[str]:
    """Start a worker as a process, on a machine of another name if one is given."""
    named = f"import socket; socket.gethostname = lambda: {host!r}; " if host else ""
    code = f"{named}import sys; from nas.cli import main; sys.exit(main(['worker', '--study', 'small', *sys.argv[1:]]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_two_workers_finish_what_a_search_began(here: Path) -> None:
    search("--epochs", "1", "--budget", "2")
    ask_for(9)
    for line in [ended(process) for process in [start(), start()]]:
        assert "here; small has 9 finished: the budget of 9 is spent" in line
    database = sqlite3.connect(here / "studies" / "studies.db")
    try:
        assert database.execute("SELECT state, COUNT(*) FROM trials GROUP BY state").fetchall() == [("COMPLETE", 9)]
        ids = database.execute("SELECT DISTINCT value_json FROM trial_user_attributes WHERE key = 'architecture'")
        assert len(ids.fetchall()) == 9
        workers = database.execute("SELECT DISTINCT value_json FROM trial_user_attributes WHERE key = 'worker'")
        assert len(workers.fetchall()) == 3
    finally:
        database.close()


@pytest.mark.slow
def test_a_worker_stops_trainings_and_takes_them_up_as_the_search_does(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search("--epochs", "6", "--budget", "2")
    ask_for(12)
    elsewhere = ["--studies", "elsewhere", "--storage", "sqlite:///studies/studies.db"]  # its files are not shared
    capsys.readouterr()
    assert main(["worker", "--study", "small", *elsewhere]) == 0
    study = Study.open("small", "sqlite:///studies/studies.db")
    stopped = study.stopped()
    assert {len(each.curve) for each in stopped} == {3}
    assert 12 <= study.tally().spent < 13
    assert f"{study.finished()} finished, {len(stopped)} stopped early" in capsys.readouterr().out
    assert not (here / "elsewhere" / "small" / "stopped").exists()
    study.close()


@pytest.mark.slow
def test_a_warm_start_is_made_again_and_refused_if_it_is_another(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search("--epochs", "1", "--budget", "1", "--warm-start", "1")
    ask_for(3)
    elsewhere = ["--study", "small", "--studies", "elsewhere", "--storage", "sqlite:///studies/studies.db"]
    assert main(["worker", *elsewhere]) == 0
    (ours,), (theirs,) = ((here / name / "warm").glob("*.safetensors") for name in ("studies", "elsewhere"))
    with safe_open(ours, framework="pt") as kept, safe_open(theirs, framework="pt") as file:
        assert kept.metadata() == file.metadata()  # a CPU trains the same again; a GPU does not
        about, tensors = file.metadata(), {name: 2 * file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    theirs.write_bytes(save(tensors, metadata={**about, "sha256": warm._digest(tensors)}))
    capsys.readouterr()
    assert main(["worker", *elsewhere]) == 2
    told = capsys.readouterr().err
    assert "but here differs protocol.weights: " in told
    assert "; copy the study's own warm start into elsewhere/warm, from where it was made" in told


@pytest.mark.slow
def test_workers_of_two_machines_finish_a_study_in_postgresql(here: Path, postgres: Server) -> None:
    places = [here / "a", here / "b"]
    for place in places:
        place.mkdir()
    words = ["--storage", postgres.url, "--wait", "120"]
    workers = [
        start(*words, "--studies", str(place), host=f"machine-{place.name}", TMPDIR=str(place)) for place in places
    ]  # before there is any table in the database
    search("--epochs", "1", "--budget", "2", "--storage", postgres.url)
    for process in workers:
        ended(process)
    ask_for(9, postgres.url)
    for process in [
        start(*words, "--studies", str(place), host=f"machine-{place.name}", TMPDIR=str(place)) for place in places
    ]:
        assert "small has 9 finished: the budget of 9 is spent" in ended(process)
    study = Study.open("small", postgres.url)
    trials = study._study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 9
    assert len({trial.user_attrs["architecture"] for trial in trials}) == 9
    assert {trial.user_attrs["worker"].split(":")[0] for trial in trials} >= {"machine-a", "machine-b"}
    study.close()
