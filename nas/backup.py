"""A copy of an SQLite database that is whole, made while others write; and whether a file is whole."""

from __future__ import annotations

import datetime
import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from nas.database_errors import StorageError

TIMEOUT_SECONDS = 60
"""How long a reader waits for a lock that keeps even readers out."""
MOST_FAULTS = 5
"""So many faults of a file are told at most."""


def read_only(path: Path) -> sqlite3.Connection:
    """Open an SQLite file that must be there, so that nothing can be written by way of the connection."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=TIMEOUT_SECONDS)


def faults(path: Path) -> list[str]:
    """Return what is wrong with the file of an SQLite database, in words; nothing if it is whole.

    Reads the whole file: pages, indices, and whether what rows refer to is there.

    Raises:
        StorageError: If it cannot be read at all, so that nothing is known of it.
    """
    try:
        with closing(read_only(path)) as connection:
            said = [row[0] for row in connection.execute(f"PRAGMA integrity_check({MOST_FAULTS})")]
            found = [] if said == ["ok"] else [" ".join(str(each).split()) for each in said]
            lost: dict[tuple[str, str], int] = {}
            for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
                lost[table, parent] = lost.get((table, parent), 0) + 1
    except sqlite3.OperationalError as error:
        raise StorageError(cannot_read(path, error)) from error
    except sqlite3.Error as error:
        return [str(error)]
    return found + [
        f"{count} rows of {table} refer to {parent} that are gone" for (table, parent), count in lost.items()
    ]


def cannot_read(path: Path, error: sqlite3.Error) -> str:
    """Return why an SQLite database cannot be read, in words, though it need not be damaged."""
    # To read what was written ahead of it, SQLite makes two files beside the database.
    return f"cannot read the database {path}: {error}; this user must be able to write into its folder, or copy it"


def default_copy(path: Path, studies: Path) -> Path:
    """Return where a copy of a database goes if nobody says where: its name has the time, in UTC."""
    now = datetime.datetime.now(datetime.timezone.utc)
    # A study's name does not begin with "_", so that no study's folder is in the way.
    return studies / "_backups" / f"{path.stem}-{now:%Y%m%dT%H%M%SZ}{path.suffix or '.db'}"


def copy(path: Path, out: Path) -> None:
    """Copy an SQLite database as it is at one moment, to a file of its own; others may go on writing meanwhile.

    The copy is made under another name, found to be whole, and then renamed: there is never half of one.

    Raises:
        StorageError: If there is no such database, it is damaged, or there is a file at the copy's place already.
        OSError, sqlite3.Error: If the copy cannot be written.
    """
    if not path.is_file():
        raise StorageError(f"no database {path}; run a search first, or give another with --storage")
    if out.exists():
        raise StorageError(f"{out} is there already; give another --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {out.parent}: {error.strerror}; give another --out") from error
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        _copy(path, temporary)
        if wrong := faults(temporary):
            raise StorageError(f"{path} is damaged, so that it was not copied: {wrong[0]}")
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, out)
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + end).unlink(missing_ok=True)


def rescue(connection: sqlite3.Connection, path: Path) -> Path | None:
    """Write what a connection still sees of a database whose file was removed: the system keeps that until it closes.

    Args:
        connection: One that was opened before.
        path: Where the file was.

    Returns:
        Where it was written; None if there was nothing to be seen, or it could not be written.
    """
    out = default_copy(path, path.parent)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(temporary)) as target:
            connection.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
            held = target.execute("SELECT count(*) FROM sqlite_master WHERE name = 'trials'").fetchone() == (1,)
        if not held or faults(temporary):
            return None
        os.replace(temporary, out)
    except (OSError, sqlite3.Error, ValueError):  # what was lost is told in any case
        return None
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + end).unlink(missing_ok=True)
    return out


def _copy(path: Path, out: Path) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=TIMEOUT_SECONDS)) as source, closing(sqlite3.connect(out)) as target:
            # All pages in one step: in step by step copies whatever another process writes begins them anew.
            source.backup(target)
            # One file that can be carried away: without this, a reader needs to make two others beside it.
            target.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{path} is damaged, so that it was not copied: {error}") from error


def server_command(url: str, out: str | None) -> str | None:
    """Return the command that copies a PostgreSQL database, without a password; None for another server.

    Args:
        url: URL of the database.
        out: File of the copy; None for one that is named after the database.
    """
    parts = urlsplit(url)
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        return None
    name, options = unquote(parts.path.strip("/")), parse_qs(parts.query)
    host = unquote(parts.hostname or "") or options.get("host", [""])[0]  # a socket's folder stands among the options
    words = ["pg_dump", "--format=custom", f"--file={out or f'{name}.dump'}"]
    words += [f"--host={host}"] if host else []
    words += [f"--port={parts.port}"] if parts.port else []
    words += [f"--username={unquote(parts.username)}"] if parts.username else []
    return shlex.join([*words, *([f"--dbname={name}"] if name else [])])
