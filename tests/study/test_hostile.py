"""Full and read-only disks, databases that vanish or rot, searches that meet or are killed: clear words, sound studies.

Each ends in what a person does about it, in a doctor that calls the study sound, and in a search that reaches its
budget.
"""

from __future__ import annotations

import datetime
import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import toy
from optuna.trial import TrialState

from nas import backup, files
from nas.architecture import Architecture
from nas.cli import main
from nas.database_errors import StorageError, words_for
from nas.evaluation import Evaluation
from nas.run import kept_up, write_files
from nas.study import Study, run
from nas.study.storage import connect

ROOT = Path(__file__).parents[2]
BUDGET = 6
FAILURES = (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError, StorageError)


@pytest.fixture(autouse=True)
def minutes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker that left its row, but no lock, be dead at once: where there is no lock that takes two minutes."""
    monkeypatch.setattr("nas.study.worker.GRACE_SECONDS", -1.0)
    monkeypatch.setattr("nas.study.worker.BEAT_SECONDS", 0.05)


def check_mended(folder: Path, budget: int = BUDGET) -> None:
    """Mend a study, see that it is sound, and search on to the budget."""
    words = ["doctor", "--quick", "--studies", str(folder)]
    assert main([*words, "--repair"]) == 0
    assert main(words) == 0
    study = toy.create(folder)
    assert study.tally().running == 0
    before = {row.architecture.id for row in study.rows()}
    run(study, toy.evaluate, space=toy.space(), budget=budget, sampler="random")
    assert study.finished() == len(study._trials(TrialState.COMPLETE)) == budget
    assert before <= {row.architecture.id for row in study.rows()}
    assert study.tally().running == study.tally().waiting == 0
    study.close()
    assert main([*words, "--repair"]) == 0


def search_until(folder: Path, number: int, happens: Callable[[Study], object], *, budget: int = BUDGET) -> str:
    """Search; while so many architectures are finished something happens. Return what is said of how that ended."""
    study = toy.create(folder)
    begun: list[str] = []

    def evaluate(architecture: Architecture) -> Evaluation:
        begun.append(architecture.id)
        if len(begun) == number + 1:
            happens(study)
        return toy.evaluate(architecture)

    with pytest.raises(FAILURES) as raised:
        run(study, evaluate, space=toy.space(), budget=budget, sampler="random")
    study.close()
    words = words_for(raised.value, toy.url(folder))
    assert words is not None
    assert "\n" not in words
    assert not any(part in words for part in ("sqlite3.", "[SQL", "INSERT", "UPDATE", "sqlalche.me", "Error"))
    return words


def on_every_statement(study: Study, pragma: str) -> None:
    """Let SQLite behave, from now on, as a pragma says."""
    for engine in (study._storage.engine, study.store._engine):

        @sa.event.listens_for(engine, "before_cursor_execute")
        def _set(_connection: object, cursor: sqlite3.Cursor, *_: object) -> None:
            cursor.execute(pragma)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    words = search_until(tmp_path, 3, lambda study: on_every_statement(study, "PRAGMA max_page_count = 1"))
    assert words == (
        f"the database {tmp_path}/studies.db has no room to grow, as the disk is full; every finished trial is kept: "
        "free some space, and run the same command again"
    )
    study = Study.open("toy", toy.url(tmp_path))
    assert study.finished() >= 3
    study.close()
    check_mended(tmp_path)


def test_a_database_that_becomes_read_only(tmp_path: Path) -> None:
    words = search_until(tmp_path, 3, lambda study: on_every_statement(study, "PRAGMA query_only = ON"))
    assert "may not be written any more; every finished trial is kept: make it writable" in words
    check_mended(tmp_path)


@pytest.mark.parametrize("pages", [1, 2, 3, 5, 8, 13, 21, 34, 40])
def test_a_disk_that_is_full_while_the_database_is_made(tmp_path: Path, pages: int) -> None:
    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def small(_connection: object, cursor: sqlite3.Cursor, *_: object) -> None:
        cursor.execute(f"PRAGMA max_page_count = {pages}")

    try:
        with pytest.raises((StorageError, sa.exc.OperationalError), match="full"):
            connect(toy.url(tmp_path))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", small)
    # There is no study yet: it is made on, here or by the next search, unless there is nothing at all.
    assert main(["doctor", "--quick", "--repair", "--studies", str(tmp_path)]) in (0, 2)
    study = toy.create(tmp_path)
    run(study, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    study.close()
    check_mended(tmp_path)


def full_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk have no room for files of a name."""
    replace = os.replace

    def full(source: str | Path, target: str | Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)


@pytest.mark.parametrize("name", ["front.csv", "best.json", "report.html"])
def test_a_disk_without_room_for_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    study = toy.create(tmp_path)
    keep_up = kept_up(study, tmp_path / "toy")
    with monkeypatch.context() as patch:
        full_for(name, patch)
        with pytest.warns(UserWarning, match="the pages could not be written: .*No space left on device"):
            run(
                study,
                toy.evaluate,
                space=toy.space(),
                budget=4,
                sampler="random",
                on_trial=lambda _: keep_up(now=True),
            )
        assert study.finished() == 4  # no trial was lost
        with pytest.raises((OSError, ValueError)) as raised:  # and the end says so
            write_files(study, tmp_path / "toy")
    words = words_for(raised.value)
    assert words is not None
    assert words.startswith(f"{tmp_path / 'toy' / name} could not be written: the disk is full; every finished trial")
    study.close()
    assert main(["doctor", "--quick", "--studies", str(tmp_path)]) == 1
    check_mended(tmp_path)


def remove(folder: Path) -> None:
    for path in folder.glob("studies.db*"):
        if not path.name.endswith(".lock"):
            path.unlink()


def test_a_database_that_is_removed_under_the_search(tmp_path: Path) -> None:
    words = search_until(tmp_path, 3, lambda _: remove(tmp_path))
    (kept,) = (tmp_path / "_backups").iterdir()
    assert words == (
        f"the database {tmp_path}/studies.db was removed or replaced while the search ran; what it held is kept in "
        f"{kept}: to go on, copy that to its place"
    )
    remove(tmp_path)
    shutil.copy(kept, tmp_path / "studies.db")
    study = Study.open("toy", toy.url(tmp_path))
    assert study.finished() == 4  # the one in work, too
    study.close()
    check_mended(tmp_path)


def test_a_database_that_is_replaced_under_the_search(tmp_path: Path) -> None:
    other = tmp_path / "other.db"

    def happens(study: Study) -> None:
        backup.copy(tmp_path / "studies.db", other)
        remove(tmp_path)
        other.rename(tmp_path / "studies.db")

    words = search_until(tmp_path, 3, happens)
    assert words.startswith(f"the database {tmp_path}/studies.db was removed or replaced while the search ran")
    check_mended(tmp_path)  # with the new one, which had three of them


def damage(folder: Path) -> None:
    """Overwrite a database in its middle, as a disk that fails would."""
    path = folder / "studies.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(0).randbytes(size - 2 * 4096))


def put_back(folder: Path, kept: Path) -> None:
    remove(folder)
    shutil.copy(kept, folder / "studies.db")


def test_a_damaged_database_is_found_when_it_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = toy.create(tmp_path)
    run(study, toy.evaluate, space=toy.space(), budget=4, sampler="random")
    study.close()
    assert main(["backup", "--studies", str(tmp_path), "--out", str(tmp_path / "kept.db")]) == 0
    damage(tmp_path)
    capsys.readouterr()
    assert main(["report", "--studies", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (
        f"the database {tmp_path}/studies.db is damaged; put back a copy that `run_search.py backup` has made" in said
    )
    assert said.count("\n") == 1
    with pytest.raises(FAILURES) as raised:
        toy.create(tmp_path)
    assert "is damaged" in str(words_for(raised.value, toy.url(tmp_path)))
    assert main(["doctor", "--quick", "--repair", "--studies", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "WRONG  file: damaged: " in said
    assert "put back a copy of the database" in said.splitlines()[-1]
    assert main(["backup", "--studies", str(tmp_path), "--out", str(tmp_path / "other.db")]) == 2
    assert not (tmp_path / "other.db").exists()  # a copy of a damaged file would be taken for a good one
    put_back(tmp_path, tmp_path / "kept.db")
    check_mended(tmp_path)


def test_a_database_that_is_damaged_under_the_search(tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"

    def happens(study: Study) -> None:
        backup.copy(tmp_path / "studies.db", kept)
        study.close()  # all is in the one file now, and will be read from there
        damage(tmp_path)

    words = search_until(tmp_path, 3, happens)
    assert "is damaged; put back a copy" in words
    assert main(["doctor", "--quick", "--studies", str(tmp_path)]) == 1
    put_back(tmp_path, kept)
    check_mended(tmp_path)


def start(folder: Path, budget: int, seconds: float, *, as_search: bool = False) -> subprocess.Popen[str]:
    """Start a search in a process of its own; as the verb, where SIGTERM is the wish to end."""
    code = "from nas.verbs.common import end_on_sigterm; end_on_sigterm(); import sys, toy; sys.exit(toy.main())"
    words = [sys.executable, "-c", code] if as_search else [sys.executable, toy.__file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(toy.__file__).parent)])}
    more = [str(folder), str(budget), str(seconds)]
    return subprocess.Popen([*words, *more], stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    log = folder / "begun.log"
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
def test_two_searches_on_one_study(tmp_path: Path) -> None:
    pair = [start(tmp_path, 12, 0.05) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    begun = (tmp_path / "begun.log").read_text().split()
    assert len(begun) == len(set(begun)) == 12
    check_mended(tmp_path, 12)


@pytest.mark.slow
def test_a_search_that_is_told_to_end(tmp_path: Path) -> None:
    process = start(tmp_path, 30, 0.2, as_search=True)
    wait_for(tmp_path, process, 4)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    study = Study.open("toy", toy.url(tmp_path))
    assert study.finished() >= 3
    assert (study.tally().running, study.tally().waiting) == (0, 1)  # queued again, before the process ended
    study.close()
    check_mended(tmp_path)


@pytest.mark.slow
def test_searches_that_are_killed_anywhere(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["doctor", "--quick", "--studies", str(tmp_path)]
    visits = 0
    for _ in range(12):
        process = start(tmp_path, 24, 0.02)
        time.sleep(draw.uniform(0.6, 2.5))
        process.kill()
        process.communicate()
        if (tmp_path / "studies.db").exists():
            found = main(words)
            assert found in (0, 1, 2)
            if found != 2:  # the database was cut off while it was made: there is no study yet
                visits += 1
                assert main([*words, "--repair"]) == 0
                assert main(words) == 0
    assert visits
    check_mended(tmp_path, 24)


@pytest.mark.slow
def test_the_real_search_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--limit", "300", "--resolution", "16", "--epochs", "1", "--batch-size", "32", "--latency-seconds", "0.02"]
    words = ["--budget", "8", *quick, "--repeats", "1", "--sampler", "random"]

    kept: list[str] = []

    def full(_connection: object, cursor: sqlite3.Cursor, statement: str, *_: object) -> None:
        kept.extend([statement] if statement.startswith("INSERT INTO nas_evaluations") else [])
        if len(kept) > 2:
            cursor.execute("PRAGMA max_page_count = 1")

    sa.event.listen(sa.Engine, "before_cursor_execute", full)
    try:
        assert main(words) == 1
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", full)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "run_search.py: the run failed: the database studies/studies.db has no room to grow, as the disk is full; "
        "every finished trial is kept: free some space, and run the same command again"
    )
    assert main(["doctor", "--repair"]) == 0
    assert main(words) == 0  # the same command again
    assert main(["doctor"]) == 0
    said_by_doctor = capsys.readouterr().out
    assert "8 architectures finished, none of them twice" in said_by_doctor
    assert "of 8 that were asked for" in said_by_doctor
    assert "it builds, with the recorded" in said_by_doctor
    split = tmp_path / "studies" / "default-digits" / "split.json"
    before = split.read_bytes()
    for damage in (split.unlink, lambda: split.write_text("{}"), lambda: split.write_text('{"hash": "0"}')):
        damage()
        assert main(["doctor", "--quick"]) == 1
        assert "the data are read again, and their split is written" in capsys.readouterr().out
        assert main(["doctor", "--quick", "--repair"]) == 0
        assert split.read_bytes() == before


@contextmanager
def read_only(folder: Path) -> Iterator[Callable[[list[str]], subprocess.CompletedProcess[str]]]:
    """Let a folder be read only, and give what runs the command line as somebody whom that stops."""
    become_nobody = "os.setgid(65534); os.setuid(65534)\n" if os.geteuid() == 0 else ""
    locks = folder.parent / "locks"
    locks.mkdir(exist_ok=True)
    locks.chmod(0o777)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def call(words: list[str]) -> subprocess.CompletedProcess[str]:
        # The interpreter and its packages may be closed to somebody else: what is needed is imported first.
        code = "import os, sys, nas.cli, nas.doctor, nas.report, nas.backup, nas.run, sqlalchemy.dialects.sqlite\n"
        code += "import alembic.ddl.sqlite, optuna.storages\n" + become_nobody
        code += "sys.exit(nas.cli.main(sys.argv[1:]))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(locks)}
        ended = [sys.executable, "-c", code, *words]
        return subprocess.run(ended, capture_output=True, text=True, env=environment, check=False)

    try:
        yield call
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="permissions are others elsewhere")
def test_a_folder_that_is_only_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nas-read-") as name:  # pytest's own is closed to others
        Path(name).chmod(0o755)
        folder = Path(name) / "studies"
        folder.mkdir()
        study = toy.create(folder)
        run(study, toy.evaluate, space=toy.space(), budget=3, sampler="random")
        study.close()
        assert main(["report", "--studies", str(folder)]) == 0
        with read_only(folder) as call:
            for words in (["report"], ["export"], ["doctor", "--quick"], ["backup", "--out", f"{folder}/copy.db"]):
                ended = call([*words, "--studies", str(folder)])
                assert ended.returncode in (1, 2), ended
                assert ended.stderr.count("\n") == 1, ended.stderr
                assert "Traceback" not in ended.stderr
                assert str(folder) in ended.stderr
                assert any(
                    part in ended.stderr for part in ("writable", "able to write", "may be written", "cannot make")
                ), ended.stderr
        check_mended(folder)


def test_a_clock_that_is_moved_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials end before they began, and begin before the ones before them."""
    study = toy.create(tmp_path)
    run(study, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    now = datetime.datetime.now()

    class Back(datetime.datetime):
        hours = 0

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Back:
            cls.hours += 1
            return cls.fromtimestamp((now - datetime.timedelta(hours=cls.hours)).timestamp(), tz)

    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", Back)
    run(study, toy.evaluate, space=toy.space(), budget=4, sampler="random")
    assert Back.hours >= 2  # the ends of both
    monkeypatch.undo()
    write_files(study, tmp_path / "toy")
    study.close()
    check_mended(tmp_path)
