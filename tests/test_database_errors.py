"""What failing databases and disks are said to mean."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import filelock
import optuna
import pytest
import sqlalchemy as sa

from nas.database_errors import StorageError, place_of, words_for

SECRET = "postgresql+psycopg://me:hunter2@db.example:5432/studies?sslpassword=hunter3"
GOES_ON = "every finished trial is kept: "


class OperationalError(Exception):
    """As psycopg raises them: with a state where a server has answered."""

    def __init__(self, text: str, sqlstate: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


OperationalError.__module__ = "psycopg"


@pytest.mark.parametrize(
    ("storage", "place"),
    [
        ("sqlite:///studies/studies.db", "the database studies/studies.db"),
        ("sqlite:////a/b%20c.db?timeout=3", "the database /a/b c.db"),
        (SECRET, "the database studies on db.example"),
        ("postgresql+psycopg://me:hun]ter2[@/x", "the database"),
        ("postgresql:///studies?host=/run/pg", "the database studies"),
        (None, "the database"),
        ("", "the database"),
    ],
)
def test_a_place_is_named_without_secrets(storage: str | None, place: str) -> None:
    assert place_of(storage) == place
    assert "hunter" not in place_of(storage)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("database or disk is full", f"has no room to grow, as the disk is full; {GOES_ON}free some space"),
        ("disk I/O error", f"could not be read or written, as the disk fails or is full; {GOES_ON}"),
        ("attempt to write a readonly database", f"may not be written any more; {GOES_ON}make it writable"),
        ("database is locked", f"was kept locked by another process; {GOES_ON}"),
        ("database disk image is malformed", "is damaged; put back a copy that `run_search.py backup` has made"),
        ("file is not a database", "is damaged"),
        ("malformed database schema (trials)", "is damaged"),
        ("no such column: nas_workers.beats", "has tables of an older version of this program; `run_search.py doctor"),
        ("no such table: trials", "is no longer the one that the run began with"),
        ("something unheard of", "failed: something unheard of"),
    ],
)
def test_what_sqlite_says(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "studies.db"
    file.touch()
    raised = sqlite3.OperationalError(text)
    for error in (raised, sa.exc.OperationalError("INSERT INTO trials VALUES (?)", {"value": "x"}, raised)):
        words = words_for(error, f"sqlite:///{file}")
        assert words is not None
        assert words.startswith(f"the database {file} {told}")
        assert "INSERT" not in words
        assert "\n" not in words


def test_a_file_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    for text in ("attempt to write a readonly database", "disk I/O error", "no such table: trials"):
        words = words_for(sqlite3.OperationalError(text), f"sqlite:///{tmp_path}/studies.db")
        assert (
            words == f"the database {tmp_path}/studies.db was removed while it was in use; put it back, or begin anew"
        )


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("53100", "has no room to grow"),
        ("53300", "takes no more connections"),
        ("53200", "has run out of memory or of another resource"),
        ("25006", "may not be written any more"),
        ("28P01", "did not let this user in"),
        ("3D000", "does not exist"),
        ("57P01", "cannot be reached"),
        ("08006", "cannot be reached"),
        ("42703", "has tables of an older version"),
        (None, "cannot be reached"),
    ],
)
def test_what_a_server_says(state: str | None, told: str) -> None:
    raised = OperationalError("connection to hunter2 failed\nDETAIL: hunter2", state)
    words = words_for(sa.exc.OperationalError("SELECT 1", {"value": "hunter2"}, raised), SECRET)
    assert words is not None
    assert words.startswith(f"the database studies on db.example {told}")
    assert "hunter" not in words


def test_what_optuna_wraps_is_looked_into() -> None:
    try:
        try:
            raise sa.exc.OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))
        except sa.exc.SQLAlchemyError as error:
            raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from error
    except optuna.exceptions.StorageInternalError as error:
        words = words_for(error)
    assert words is not None
    assert words.startswith("the database has no room to grow")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "best.json could not be written: the disk is full"),
        (errno.EROFS, "best.json could not be written: its disk is read-only"),
        (errno.EACCES, "best.json may not be read or written by this user"),
        (errno.ENOENT, None),
    ],
)
def test_what_a_file_says(number: int, told: str | None) -> None:
    words = words_for(OSError(number, "why", "best.json"))
    assert words == told or (told is not None and words is not None and words.startswith(told))


def test_what_is_no_matter_of_a_database_is_left_alone() -> None:
    assert words_for(KeyError("stage")) is None
    assert words_for(ValueError("epochs must be at least 1")) is None
    full = OSError(errno.ENOSPC, "No space left on device")
    interrupted = KeyboardInterrupt()
    interrupted.__cause__ = full
    assert words_for(interrupted) is None


def test_our_own_words_stay() -> None:
    assert words_for(StorageError("the file\nis gone")) == "the file is gone"


def test_a_lock_that_is_kept(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / "x.lock"), pytest.raises(filelock.Timeout) as raised:
        filelock.FileLock(tmp_path / "x.lock", timeout=0, is_singleton=False).acquire()
    words = words_for(raised.value)
    assert words is not None
    assert words.startswith("the database was kept locked by another process")
