"""What a failing database or a full disk means, in one line of plain words: what happened, to which file, what to do.

Libraries say it in their own words, with the statement that failed and its values. This module imports none of them:
it knows their errors by what they say of themselves, so that the command line can ask it at no cost.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


def _then_again(do: str) -> str:
    """Return what to do about something that ends a run but not a study."""
    return f"every finished trial is kept: {do}, and run the same command again"


_FREE = _then_again("free some space")
_WRITABLE = _then_again("make it writable")
_FULL = f"has no room to grow, as the disk is full; {_FREE}"
_READ_ONLY = f"may not be written any more; {_WRITABLE}"
_BUSY = f"was kept locked by another process; {_then_again('end that process if it hangs')}"
_DAMAGED = (
    "is damaged; put back a copy that `run_search.py backup` has made, or see what `run_search.py doctor` says of it"
)
_OLD = (
    "has tables of an older version of this program; `run_search.py doctor --repair` brings them up to date, after a "
    "copy of the file"
)
_OTHER = "is no longer the one that the run began with: a table is gone; put it back, and run the same command again"
_AWAY = f"cannot be reached; {_then_again('see that it runs and can be reached')}"
_CROWDED = f"takes no more connections; {_then_again('raise its limit or start fewer workers')}"
_SHORT = f"has run out of memory or of another resource; {_then_again('see to it')}"
_IO = f"could not be read or written, as the disk fails or is full; {_then_again('see to the disk')}"

_SQLITE = (
    ("database or disk is full", _FULL),
    ("disk i/o error", _IO),
    ("readonly database", _READ_ONLY),
    ("is locked", _BUSY),
    ("malformed", _DAMAGED),
    ("file is not a database", _DAMAGED),
    ("unable to open database file", "cannot be opened; see that its folder is there and may be written"),
    ("beats", _OLD),
    ("no such column", _OLD),
    ("has no column", _OLD),
    ("no such table", _OTHER),
)
"""Part of what SQLite says, in small letters, and what it means; the first that fits counts."""
_SQLSTATES = (
    ("53100", _FULL),
    ("53300", _CROWDED),
    ("53", _SHORT),
    ("25006", _READ_ONLY),
    ("42501", "does not let this user do that; see to the user's rights"),
    ("42703", _OLD),
    ("42P01", _OTHER),
    ("28", "did not let this user in; see to the user and the password in the URL"),
    ("3D000", "does not exist; create it, or give another with --storage"),
    ("XX001", _DAMAGED),
    ("XX002", _DAMAGED),
    ("08", _AWAY),
    ("57P", _AWAY),
)
"""How the SQLSTATE of an error begins, and what it means; the first that fits counts."""
_DRIVERS = ("psycopg", "psycopg2", "pymysql", "MySQLdb", "mysql", "asyncpg", "pg8000")


class StorageError(ValueError):
    """The database cannot be used; the message says why."""


def place_of(storage: str | None) -> str:
    """Return which database a URL means, in words and without user, password or options.

    Args:
        storage: The URL; None where it is not known.
    """
    if not storage:
        return "the database"
    if storage.startswith("sqlite"):
        return f"the database {_sqlite_file(storage)}"
    try:
        parts = urlsplit(storage)
        name, host = parts.path.strip("/"), parts.hostname
    except ValueError:
        return "the database"
    return f"the database {name or '(unnamed)'}" + (f" on {host}" if host else "")


def words_for(error: BaseException, storage: str | None = None) -> str | None:
    """Return what a failed database or disk means and what to do about it, in one line; None for any other error.

    Args:
        error: What was raised; what it was raised from is looked at, too.
        storage: URL of the database. Neither its user nor its password is told.
    """
    if not isinstance(error, Exception):
        return None  # Ctrl-C, whatever it came in between of
    place = place_of(storage)
    for each in _chain(error):
        if isinstance(each, StorageError):
            return " ".join(str(each).split())
        if isinstance(each, sqlite3.Error):
            return f"{place} {_of_sqlite(each, storage)}"
        if type(each).__module__.split(".")[0] in _DRIVERS and hasattr(each, "args"):
            return f"{place} {_of_server(each)}"
        if type(each).__module__.split(".")[0] == "filelock":
            return f"{place} {_BUSY}"
        if isinstance(each, OSError) and (told := _of_file(each)) is not None:
            return told
    if type(error).__module__.startswith("sqlalchemy."):
        return f"{place} failed: {str(error).splitlines()[0].split(' [SQL')[0]}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it comes from: what a driver raised, and what one error was raised from."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        found = (getattr(each, "orig", None), each.__cause__)
        waiting += [other for other in found if isinstance(other, BaseException)]


def _of_sqlite(error: sqlite3.Error, storage: str | None) -> str:
    text = str(error).lower()
    if storage and not Path(_sqlite_file(storage)).exists():
        return "was removed while it was in use; put it back, or begin anew"
    return next((told for part, told in _SQLITE if part in text), f"failed: {' '.join(str(error).split())}")


def _of_server(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None) or ""
    if not state:  # no answer from a server
        return _AWAY if type(error).__name__ in ("OperationalError", "InterfaceError") else f"failed: {_first(error)}"
    return next((told for begin, told in _SQLSTATES if state.startswith(begin)), f"failed: {_first(error)}")


def _of_file(error: OSError) -> str | None:
    what = f"{error.filename}" if error.filename else "a file"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"{what} could not be written: the disk is full; {_FREE}"
    if error.errno == errno.EROFS:
        return f"{what} could not be written: its disk is read-only; {_WRITABLE}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{what} may not be read or written by this user; {_then_again('see to its permissions')}"
    return None


def _first(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _sqlite_file(storage: str) -> str:
    return unquote(storage.partition(":///")[2].partition("?")[0]) or storage
