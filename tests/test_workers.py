"""Several processes on one study: watched, started again, stopped; together they keep the budget."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from nas import workers
from nas.cli import main
from nas.run import _Duty, _work
from nas.settings import Settings
from nas.study import RunFailed, Study
from nas.workers import Line, supervise, words_of

Duty = tuple[Path, int]
"""A folder, and the number of the worker."""


def leave_a_mark(folder: Path, words: str) -> None:
    (folder / str(os.getpid())).write_text(words)


def duties(folder: Path, count: int) -> list[Duty]:
    return [(folder, number) for number in range(count)]


def wait_until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def double(duty: Duty, line: Line) -> int:
    line.ready()
    line.tell(f"news of {duty[1]}")
    return 2 * duty[1]


def come_late(duty: Duty, line: Line) -> list[str]:
    folder, number = duty
    time.sleep(0.5 * number)
    leave_a_mark(folder, f"loaded {number}")
    line.ready()
    return sorted(path.read_text() for path in folder.iterdir())


def wait_for_ever(duty: Duty, line: Line) -> None:
    try:
        line.ready()
        leave_a_mark(duty[0], "begun")
        line.tell("begun")
        time.sleep(600)
    except KeyboardInterrupt:
        leave_a_mark(duty[0], "told to end")
        raise


def work_until_stopped(duty: Duty, line: Line) -> str:
    line.ready()
    leave_a_mark(duty[0], "begun")
    wait_until(line.stop)
    return "stopped"


def load_for_ever(duty: Duty, _line: Line) -> None:
    leave_a_mark(duty[0], "loading")
    time.sleep(600)


def die_at_first(duty: Duty, line: Line) -> int:
    folder, number = duty
    line.ready()
    count = len(list(folder.iterdir()))
    leave_a_mark(folder, "begun")
    if number and count == 0:
        os.kill(os.getpid(), number)
    if not number and count == 0:
        os._exit(7)
    return count


def die_after_each_trial(duty: Duty, line: Line) -> str:
    line.ready()
    if len(list(duty[0].iterdir())) == 4:
        return "done"
    leave_a_mark(duty[0], "begun")
    line.tell("a trial")
    os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die(duty: Duty, line: Line) -> None:
    leave_a_mark(duty[0], "begun")
    line.ready()
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_stopped(duty: Duty, line: Line) -> None:
    work_until_stopped(duty, line)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(duty: Duty, line: Line) -> None:
    line.ready()
    raise RunFailed("3 trials in a row failed") if duty[1] else OSError("no space left")


def test_workers_work_with_their_arguments_and_tell_their_news(tmp_path: Path) -> None:
    heard: list[str] = []
    assert sorted(supervise(double, duties(tmp_path, 3), on_news=heard.extend)) == [0, 2, 4]
    assert sorted(heard) == ["news of 0", "news of 1", "news of 2"]


def test_the_work_begins_when_all_are_ready(tmp_path: Path) -> None:
    assert supervise(come_late, duties(tmp_path, 2)) == [["loaded 0", "loaded 1"]] * 2


def test_an_exception_ends_them(tmp_path: Path) -> None:
    def interrupt(_: list[Any]) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise(wait_for_ever, duties(tmp_path, 2), on_news=interrupt)
    marks = list(tmp_path.iterdir())
    assert [path.read_text() for path in marks] == ["told to end"] * 2
    for path in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (signal.SIGKILL, "was ended by SIGKILL (as the system does where memory runs out)"),
        (signal.SIGTERM, "was ended by SIGTERM (somebody told it to end)"),
        (0, "ended with exit status 7"),
    ],
)
def test_one_that_dies_is_started_again(tmp_path: Path, wish: int, words: str) -> None:
    said: list[str] = []
    assert supervise(die_at_first, [(tmp_path, wish)], say=said.append) == [1]
    assert said == [f"worker 1 {words}; it is started again, and what it had in work is queued again"]


def test_too_many_deaths_end_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_DEATHS", 0)
    with pytest.raises(RunFailed, match="^2 workers died, and no trial ended in between; the last one was .*SIGKILL"):
        supervise(die, duties(tmp_path, 1))
    assert len(list(tmp_path.iterdir())) == 2


def test_deaths_count_from_the_last_trial_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_DEATHS", 0)
    assert supervise(die_after_each_trial, duties(tmp_path, 1)) == ["done"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("number", "message"), [(0, "OSError: no space left"), (1, "3 trials in a row failed")])
def test_the_message_of_one_that_fails_ends_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int, message: str
) -> None:
    with pytest.raises(RunFailed) as raised:
        supervise(fail, [(tmp_path, number)] * 2)
    assert str(raised.value) == message
    assert "in fail" in str(raised.value.__cause__)  # the worker's own traceback
    assert capfd.readouterr().err == ""


def test_asked_to_stop_they_return(tmp_path: Path) -> None:
    returned = supervise(work_until_stopped, duties(tmp_path, 2), stop=lambda: len(list(tmp_path.iterdir())) == 2)
    assert returned == ["stopped", "stopped"]


def test_one_that_dies_as_it_stops_is_not_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    stop = lambda: len(list(tmp_path.iterdir())) == 1  # noqa: E731
    assert supervise(die_when_stopped, duties(tmp_path, 1), stop=stop, say=said.append) == []
    assert len(said) == 1
    assert said[0].endswith("; what it had in work is queued again")


def test_what_has_not_begun_stops_at_once(tmp_path: Path) -> None:
    assert supervise(load_for_ever, duties(tmp_path, 1), stop=lambda: any(tmp_path.iterdir())) == []
    (mark,) = tmp_path.iterdir()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.name), 0)


def test_an_unknown_signal_has_its_number() -> None:
    assert words_of(-63) == "was ended by signal 63"


def start(folder: Path, count: int, budget: int = 300) -> subprocess.Popen[str]:
    """Start a search, and wait until each worker holds a trial."""
    (folder / "hold").touch()
    words = [sys.executable, toy.__file__, str(folder), str(budget), "0", str(count)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(begun(folder)) == count or process.poll() is not None)
    assert process.poll() is None
    return process


def begun(folder: Path) -> list[str]:
    log = folder / "begun.log"
    return log.read_text().split() if log.exists() else []


def end(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=120)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_lets_the_trials_in_hand_end(tmp_path: Path, count: int) -> None:
    process = start(tmp_path, count)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith("stopping when what is in training now is done; Ctrl-C again")
    (tmp_path / "hold").unlink()
    assert end(process) == ""
    assert process.returncode == 130
    study = Study.open("toy", toy.url(tmp_path))
    assert study.finished() == len(begun(tmp_path)) < 300
    assert study.tally().running == study.tally().waiting == 0
    assert study.failures() == []
    study.close()


@pytest.mark.slow
@pytest.mark.parametrize("wishes", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
@pytest.mark.parametrize("count", [1, 2])
def test_to_stop_at_once_queues_again_what_is_in_work(
    tmp_path: Path, count: int, wishes: tuple[signal.Signals, ...]
) -> None:
    process = start(tmp_path, count)
    assert process.stderr is not None
    for number, wish in enumerate(wishes):
        if number:
            process.stderr.readline()  # the one before was understood: two that come together are one
        os.killpg(process.pid, wish) if wish == signal.SIGINT else process.send_signal(wish)
    end(process)
    assert process.returncode == 130
    study = Study.open("toy", toy.url(tmp_path))
    assert study.tally().running == study.finished() == 0
    assert study.tally().waiting == count
    study.close()
    held = set(begun(tmp_path))
    (tmp_path / "hold").unlink()
    assert subprocess.run([sys.executable, toy.__file__, str(tmp_path), "4", "0"], check=False).returncode == 0
    study = Study.open("toy", toy.url(tmp_path))
    assert study.finished() == 4
    assert held <= {row.architecture.id for row in study.rows()}
    study.close()


@pytest.mark.slow
def test_workers_do_not_outlive_the_one_that_watches_them(tmp_path: Path) -> None:
    process = start(tmp_path, 2)
    process.kill()
    assert end(process) == ""
    pids = [int(line.split()[1]) for line in (tmp_path / "workers.log").read_text().splitlines()]
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    study = Study.open("toy", toy.url(tmp_path))
    assert study.tally().running == 0
    assert study.tally().waiting == 2
    study.close()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one whose parent was killed may stay as a zombie that nobody waits for."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_killed_workers_lose_no_trial(tmp_path: Path) -> None:
    process = start(tmp_path, 2, budget=8)
    for line in (tmp_path / "workers.log").read_text().splitlines():
        os.kill(int(line.split()[1]), signal.SIGKILL)
    (tmp_path / "hold").unlink()
    said = end(process).splitlines()
    assert process.returncode == 0
    assert len(said) == 2
    assert all("was ended by SIGKILL" in line for line in said)
    study = Study.open("toy", toy.url(tmp_path))
    ids = [row.architecture.id for row in study.rows()]
    assert len(ids) == len(set(ids)) == 8
    assert study.tally().running == study.tally().waiting == 0
    # What was begun twice are the two trials that were killed; nothing was begun a third time.
    assert len(begun(tmp_path)) == 8 + 2
    study.close()


@pytest.mark.slow
def test_a_search_with_two_workers_keeps_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "--budget 6 --limit 300 --epochs 1 --latency-seconds 0.1 --sampler random --repeats 3 --workers 2"
    assert main(words.split()) == 0
    database = sqlite3.connect(tmp_path / "studies" / "studies.db")
    try:
        states = dict(database.execute("SELECT state, COUNT(*) FROM trials GROUP BY state"))
        found = database.execute("SELECT DISTINCT value_json FROM trial_user_attributes WHERE key = 'worker'")
        assert len(found.fetchall()) == 2
        replicates = database.execute("SELECT COUNT(*) FROM nas_replicates").fetchone()[0]
    finally:
        database.close()
    assert states == {"COMPLETE": 6}
    assert replicates == 3
    said = capfd.readouterr().err
    assert "6/6" in said
    assert said.count("again with seed") == 3
    assert "is started again" not in said
    assert len((tmp_path / "studies" / "default-digits" / "front.csv").read_text().splitlines()) == 7


class Alone(Line):
    """The line of a worker that nobody watches."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def ready(self) -> None:
        self.told.append("ready")

    def tell(self, news: object) -> None:
        self.told.append(news)

    def stop(self) -> bool:
        return False


@pytest.mark.slow
def test_a_worker_searches_and_trains_its_share(tmp_path: Path) -> None:
    settings = Settings(
        budget=2, limit=300, epochs=1, latency_seconds=0.05, workers_per_device=3, repeats=6, studies=str(tmp_path)
    )
    line = Alone()
    assert _work(_Duty(settings=settings, worker=1), line).finished == 2
    study = Study.open(settings.study_name, settings.storage_url)
    bare = study.rows()[0].architecture
    seeds = [seed for seed in range(1, 7) if (int(bare.id, 16) + seed) % 3 == 1]
    assert [each.seed for each in study.replicates()[bare.id]] == seeds
    assert line.told[:3] == ["ready", None, None]
    assert [(architecture, replicate.seed) for architecture, replicate in line.told[3:]] == [(bare, s) for s in seeds]
    study.close()
