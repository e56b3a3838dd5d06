"""Workers and the process that watches them are killed again and again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import toy
from optuna.trial import TrialState
from server import Server

from nas.study import Study

KILLS, BUDGET, WORKERS = 30, 40, 4


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").exists() else True


class Siege:
    """A search of several workers, and what is done to it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.dice = random.Random(0)
        self.hold = folder / "hold"
        self.hold.touch()
        self.parent = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        script = [sys.executable, toy.__file__, str(self.folder), str(BUDGET), "0", str(WORKERS), self.url]
        with (self.folder / "messages.log").open("a") as log:
            return subprocess.Popen(script, stderr=log)

    def log(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def workers(self) -> list[int]:
        """Return the processes of the workers that live, those of a killed parent among them."""
        return [pid for pid in (int(line.split()[1]) for line in self.log("workers.log")) if alive(pid)]

    def wait_for_work(self, begun: int) -> None:
        """Wait until a training was begun since then; start the search anew where it has ended."""
        deadline = time.monotonic() + 120
        while len(self.log("begun.log")) <= begun:
            if self.parent.poll() is not None:  # it gives up where too many die
                self.parent = self.start()
            assert time.monotonic() < deadline, self.log("messages.log")
            time.sleep(0.01)

    def release(self) -> None:
        """Let the workers go on for a moment, in which some finish and some begin; they are killed in the midst."""
        self.hold.unlink()
        time.sleep(self.dice.uniform(0, 0.1))

    def kill(self) -> None:
        workers = self.workers()
        pid = self.parent.pid if not workers or self.dice.random() < 0.2 else self.dice.choice(workers)
        os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        self.hold.unlink(missing_ok=True)
        for _ in range(5):
            if self.parent.poll() not in (None, 0):
                self.parent = self.start()
            self.parent.wait(timeout=240)
        assert self.parent.returncode == 0, self.log("messages.log")
        deadline = time.monotonic() + 60
        while self.workers():  # of a parent that was killed
            assert time.monotonic() < deadline
            time.sleep(0.05)


def besieged(folder: Path, url: str) -> None:
    siege = Siege(folder, url)
    begun = 0
    for _ in range(KILLS):
        siege.wait_for_work(begun)
        begun = len(siege.log("begun.log"))
        study = Study.open("toy", url)
        # The last ones are trained when all are dead that were to be.
        nearly = study.tally().finished > BUDGET - 2 * WORKERS
        study.close()
        if not nearly and siege.dice.random() < 0.5:
            siege.release()
            siege.kill()
            siege.hold.touch()
        else:
            siege.kill()
    siege.end()

    study = Study.open("toy", url)
    trials = study._study.get_trials(deepcopy=False)
    finished = Counter(trial.user_attrs["architecture"] for trial in trials if trial.state == TrialState.COMPLETE)
    states = Counter(trial.state for trial in trials)
    assert len(finished) == BUDGET
    assert set(finished.values()) == {1}
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    assert study.failures() == []
    # Every one that was begun was finished, and what was trained to the end was so once.
    assert set(siege.log("begun.log")) == set(finished)
    assert max(Counter(siege.log("ended.log")).values()) == 1
    assert len(study.store.evaluations(toy.PROTOCOL.hash)) == BUDGET
    assert study.store.signs() == {}
    study.close()


@pytest.mark.slow
def test_thirty_kills_in_sqlite(tmp_path: Path) -> None:
    besieged(tmp_path, toy.url(tmp_path))


@pytest.mark.slow
def test_connections_that_break_all_the_time(tmp_path: Path, postgres: Server) -> None:
    """A server drops a third of its sessions, again and again: locks are lost, and answers to whatever was asked."""
    toy.create(tmp_path, where=postgres.url).close()
    script = [sys.executable, toy.__file__, str(tmp_path), str(BUDGET), "0.05", "1", postgres.url]
    with (tmp_path / "messages.log").open("w") as log:
        searches = [subprocess.Popen(script, stderr=log) for _ in range(WORKERS)]
    dice, killed, deadline = random.Random(0), 0, time.monotonic() + 240
    while any(search.poll() is None for search in searches):
        assert time.monotonic() < deadline, (tmp_path / "messages.log").read_text()
        time.sleep(dice.uniform(0.02, 0.2))
        mine = "datname = current_database() AND pid <> pg_backend_pid()"
        if (tmp_path / "begun.log").exists():  # to find no server at the start is an error
            for (pid,) in postgres.ask(f"SELECT pid FROM pg_stat_activity WHERE {mine}"):
                if dice.random() < 0.3:
                    postgres.ask(f"SELECT pg_terminate_backend({pid})")
                    killed += 1
    assert killed > 50
    study = Study.open("toy", postgres.url)
    trials = study._study.get_trials(deepcopy=False)
    finished = Counter(trial.user_attrs["architecture"] for trial in trials if trial.state == TrialState.COMPLETE)
    assert (len(finished), set(finished.values())) == (BUDGET, {1})
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    assert study.failures() == []
    assert [search.returncode for search in searches].count(0) >= 1, (tmp_path / "messages.log").read_text()
    study.close()


@pytest.mark.slow
def test_thirty_kills_in_postgres(tmp_path: Path, postgres: Server) -> None:
    besieged(tmp_path, postgres.url)
