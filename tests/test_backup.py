"""Copies of a database: whole, made while others write, and never half there."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import toy

from nas import backup
from nas.backup import copy, faults, server_command
from nas.cli import main
from nas.database_errors import StorageError
from nas.study import Study, run


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    study = toy.create(tmp_path)
    run(study, toy.evaluate, space=toy.space(), budget=5, sampler="random")
    study.close()
    return tmp_path


def damage(path: Path) -> None:
    """Overwrite the middle of a database, as a failing disk would."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(os.urandom(size // 2))


def test_a_copy_is_read_as_the_database_is(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup", "--studies", str(studies)]) == 0
    (made,) = (studies / "_backups").iterdir()
    assert f"wrote {made}: 1 study of {studies / 'studies.db'}" in capsys.readouterr().out
    original, kept = Study.open("toy", toy.url(studies)), Study.open("toy", f"sqlite:///{made}")
    assert kept.rows() == original.rows()
    assert len(kept.rows()) == 5
    original.close()
    kept.close()
    assert main(["report", "--storage", f"sqlite:///{made}", "--studies", str(studies / "again")]) == 0
    assert (studies / "again" / "toy" / "report.html").is_file()


def test_a_copy_is_made_to_a_place_and_replaces_nothing(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = studies / "deep" / "copy of it.db"
    assert main(["backup", "--studies", str(studies), "--out", str(out)]) == 0
    assert f"--storage {shlex.quote(f'sqlite:///{out}')}" in capsys.readouterr().out
    before = out.read_bytes()
    assert main(["backup", "--studies", str(studies), "--out", str(out)]) == 2
    assert f"{out} is there already; give another --out, or remove it" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_is_not_there_is_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup", "--studies", str(tmp_path)]) == 2
    assert "run a search first" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_is_not_copied(studies: Path) -> None:
    damage(studies / "studies.db")
    assert faults(studies / "studies.db")
    with pytest.raises(StorageError, match="studies.db is damaged, so that it was not copied: "):
        copy(studies / "studies.db", studies / "copy" / "it.db")
    assert list((studies / "copy").iterdir()) == []


def test_a_full_disk_leaves_no_half_copy(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(path: object, **arguments: object) -> sqlite3.Connection:
        made = connect(path, **arguments)  # type: ignore[call-overload]
        if str(path).endswith(".tmp"):
            made.execute("PRAGMA max_page_count = 2")
        return made  # type: ignore[no-any-return]

    monkeypatch.setattr(backup.sqlite3, "connect", small)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        copy(studies / "studies.db", studies / "copy" / "it.db")
    assert list((studies / "copy").iterdir()) == []


def test_a_full_disk_is_told(
    studies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "copy.db")

    monkeypatch.setattr(backup.os, "replace", full)
    assert main(["backup", "--studies", str(studies), "--out", str(studies / "copy.db")]) == 1
    assert "copy.db could not be written: the disk is full" in capsys.readouterr().err
    assert not list(studies.glob("*copy.db*"))


def test_copies_are_made_while_a_search_writes(tmp_path: Path) -> None:
    words = [sys.executable, toy.__file__, str(tmp_path), "25", "0.05"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        counts = []
        while process.poll() is None:
            if (tmp_path / "begun.log").exists():
                out = tmp_path / f"copy-{len(counts)}.db"
                copy(tmp_path / "studies.db", out)
                assert faults(out) == []
                kept = Study.open("toy", f"sqlite:///{out}")
                counts.append(len(kept.rows()))
                kept.close()
            time.sleep(0.05)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    assert len(counts) > 2
    assert counts == sorted(counts)
    assert counts[0] < 25
    finished = Study.open("toy", toy.url(tmp_path))
    assert finished.finished() == 25
    finished.close()


def test_faults_of_a_whole_file_and_of_rows_without_their_owner(studies: Path) -> None:
    assert faults(studies / "studies.db") == []
    with closing(sqlite3.connect(studies / "studies.db")) as connection:
        connection.execute("DELETE FROM trials WHERE number = 3")
        connection.commit()
    assert any(
        "rows of trial_values refer to trials that are gone" in fault for fault in faults(studies / "studies.db")
    )


@pytest.mark.parametrize(
    ("url", "command"),
    [
        (
            "postgresql+psycopg://me:hunter2@db.example:5433/my%20studies?password=hunter3",
            "pg_dump --format=custom '--file=my studies.dump' --host=db.example --port=5433 --username=me "
            "'--dbname=my studies'",
        ),
        (
            "postgresql://me@/studies?host=/run/pg",
            "pg_dump --format=custom --file=studies.dump --host=/run/pg --username=me --dbname=studies",
        ),
        ("mysql://me:hunter2@db.example/studies", None),
    ],
)
def test_a_server_has_its_own_command(
    url: str, command: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert server_command(url, None) == command
    assert main(["backup", "--storage", url]) == 2
    said = capsys.readouterr().err
    assert "only an SQLite database is copied here" in said
    assert "hunter" not in said
    assert command is None or command in said
