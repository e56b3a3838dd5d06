"""A database by its URL: what may be opened, how long an outage is waited for, and locks that all who use it share.

The one place that knows how SQLite and database servers differ, but for Optuna's own tables.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa

from nas.backup import cannot_read
from nas.database_errors import StorageError as StorageError  # its home is below all that may raise it
from nas.database_errors import words_for
from nas.evaluation import first_line
from nas.locks import default_folder, exclusive, telling
from nas.secret import shown
from nas.strict_json import short

P = ParamSpec("P")
T = TypeVar("T")

_SQLITE_QUERY = ("timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements")
"""What may stand in the query of an SQLite URL."""
BUSY_TIMEOUT_SECONDS = 60
"""How long a connection waits for SQLite's write lock."""
PATIENCE_SECONDS = 600.0
"""How long an outage of the database is waited for: a server that is restarted, a network that is gone."""
MOST_PAUSE_SECONDS = 5.0
"""Longest pause between two attempts while it lasts."""
CONNECTIONS = 2
"""Connections to a server that one process keeps open for our tables: one for a lock, one for what is done under it.

Optuna's tables have a further one. A thousand workers are three thousand connections, which servers have to be told to
allow; see docs/scaling.md.
"""
PIECES = 32
"""Pieces of work that processes of one machine can claim at once where locks are files."""
LOCK_SESSION = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")
"""What a session of PostgreSQL is told that may hold a lock: a machine that lost its power would hold it for hours."""


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite URL, or None for another database.

    Raises:
        StorageError: If the URL cannot be read, or names an SQLite database in memory, which no other process sees.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # a port that is no number, for one
        raise StorageError(
            f"storage must be a database URL such as sqlite:///studies/studies.db, but got {shown(url)!r}"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise StorageError(f"storage must be a path, such as sqlite:///studies/studies.db, but got {shown(url)!r}")
    if unknown := sorted(set(parsed.query) - set(_SQLITE_QUERY)):  # SQLAlchemy would warn, and pass it over
        raise StorageError(f"SQLite takes {', '.join(_SQLITE_QUERY)} behind its path's ?, but not {short(unknown[0])}")
    return Path(parsed.database)


def prepare_sqlite(path: Path) -> None:
    """Check that an SQLite file can be written and is ours or empty, and switch it to write-ahead logging.

    The journal mode is kept in the file, so it is set once, here: setting it on every connection meets the lock.

    Raises:
        StorageError: If the file is no SQLite database, belongs to something else, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)
        try:
            check_ours(connection, path)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            # A real write: SQLite lets even a read-only database begin a transaction.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute(f"PRAGMA user_version = {int(version)}")
        finally:
            connection.close()
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageError(
            f"cannot write the database {path}: {error}; give a writable place with --storage"
        ) from error


def check_ours(connection: sqlite3.Connection, path: Path, *, used: bool = False) -> None:
    """Raise unless an SQLite database is empty or an Optuna database; with ``used``, unless it has our tables.

    Raises:
        StorageError: If it is not.
    """
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        raise StorageError(cannot_read(path, error)) from error
    except sqlite3.DatabaseError as error:
        if "malformed" in str(error):
            raise StorageError(words_for(error, f"sqlite:///{path}") or str(error)) from error
        raise StorageError(f"{path} is not an SQLite database ({error}); give another with --storage") from error
    is_begun = all(_is_known(table) for table in tables)  # or empty: whatever table is missing will be made
    if used and is_begun and "nas_meta" not in tables and not _has_studies(connection, tables):
        raise StorageError(f"{path} was cut off while it was made, and holds nothing yet; run the search again")
    if not (is_begun or {"studies", "trials"} <= tables) or (used and "nas_meta" not in tables):
        some = ", ".join(sorted(tables)[:3]) or "none"
        raise StorageError(f"{path} is a database of something else (tables: {some}); give another with --storage")


def _has_studies(connection: sqlite3.Connection, tables: set[str]) -> bool:
    return "studies" in tables and connection.execute("SELECT 1 FROM studies").fetchone() is not None


def _is_known(table: str) -> bool:
    """Tell whether a table is one of Optuna's, of ours or of SQLite's, by its name."""
    return table in ("studies", "trials", "version_info", "alembic_version") or table.startswith(
        ("study_", "trial_", "nas_", "sqlite_")
    )


def engine_arguments(url: str, connections: int) -> dict[str, Any]:
    """Return what SQLAlchemy is told when it opens a database.

    Args:
        url: Its URL.
        connections: How many are kept open where it is a server.
    """
    if sqlite_path(url) is not None:
        return {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}, "pool_pre_ping": True}
    return {"pool_size": connections, "pool_pre_ping": True, "connect_args": _limits(url)}


def _limits(url: str) -> dict[str, int]:
    """Return after how long a driver takes a server for gone: else a call may wait for one until TCP gives up."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "postgresql" or not parsed.get_driver_name().startswith("psycopg"):
        return {}
    limits = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    limits["tcp_user_timeout"] = 60_000  # ms
    return {name: value for name, value in limits.items() if name not in parsed.query}


def is_passing(error: BaseException) -> bool:
    """Tell whether an error of a database may be gone in a moment: a server that is away, a lock that another holds."""
    for each in (error, error.__cause__):
        if isinstance(each, sa.exc.PendingRollbackError):
            return True  # Optuna has asked again after an error, in a session that was lost with its connection
        if isinstance(each, sa.exc.DBAPIError):
            if isinstance(each.orig, sqlite3.Error):
                return "locked" in str(each.orig) or "busy" in str(each.orig)
            if "does not exist" in str(each.orig) or "authentication failed" in str(each.orig):
                return False  # the database was dropped, or the user is no longer let in
            return each.connection_invalidated or isinstance(each, (sa.exc.OperationalError, sa.exc.InterfaceError))
    return False


def patient(work: Callable[P, T]) -> Callable[P, T]:
    """Have a call to the database repeated while it is away, for :data:`PATIENCE_SECONDS` at most.

    What is called must bear repetition: the answer may be lost after the work was done.
    """

    @wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = 0.05
        has_told = False
        while True:
            try:
                return work(*args, **kwargs)
            except Exception as error:
                if not is_passing(error) or time.monotonic() + pause > deadline:
                    raise
                _renew(*args)
                if pause >= 1 and not has_told:
                    words = f"the database does not answer ({cause(error)}); trying again for {PATIENCE_SECONDS:.0f} s"
                    print(f"\n{words}", file=sys.stderr, flush=True)
                    has_told = True
            time.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE_SECONDS)

    return call


def _renew(*args: object) -> None:
    """Let an engine, or what has one, connect anew.

    A connection may be of a server that is gone. In SQLite one may also hold a read that was broken off, by Ctrl-C for
    one: once others have written, whatever it writes is refused for ever.
    """
    for each in args[:1]:
        for engine in (each, getattr(each, "engine", None), getattr(each, "_engine", None)):
            if isinstance(engine, sa.Engine):
                engine.dispose()


def cause(error: BaseException) -> str:
    """Return what a database or its driver said, in one line, without the statement and its values."""
    for each in (error, error.__cause__):
        if isinstance(each, sa.exc.DBAPIError) and each.orig is not None:
            return first_line(each.orig)
    return first_line(error)


class Lock(Protocol):
    """A lock that is held."""

    def is_held(self) -> bool:
        """Tell whether it is still held, and was ever since: a server that was restarted has forgotten it."""
        ...


@contextmanager
def locked(engine: sa.Engine, url: str, purpose: str, of: str = "") -> Iterator[Lock]:
    """Exclude all others that use the database for one purpose: processes of this machine or, on PostgreSQL, of any.

    A process that dies lets go, and so does a machine that loses its power, within a minute or so. It is not
    re-entrant.

    Args:
        engine: Connects to the database.
        url: Its URL.
        purpose: What for, in letters that a file's name may have.
        of: What of, such as a study. SQLite, of which there is one file, has one lock for all of them.

    Raises:
        StorageError: If there is no place for the lock.
    """
    if engine.dialect.name == "postgresql":
        with _advisory(engine, f"nas {purpose} {of}") as lock:
            yield lock
        return
    with exclusive(_lock_file(url, purpose), f"the database's {purpose} lock, which another process has"):
        yield _FileLock()


@contextmanager
def claimed(engine: sa.Engine, url: str, work: str) -> Iterator[None]:
    """Exclude all others from one piece of work, as :func:`locked` excludes them from a purpose.

    Where locks are files, which stay when they are released, there are :data:`PIECES` for all the work that there is:
    two pieces that share one wait for each other.

    Args:
        engine: Connects to the database.
        url: Its URL.
        work: What tells it from other work on the same database.
    """
    if engine.dialect.name == "postgresql":
        with _advisory(engine, f"nas work {work}"):
            yield
        return
    key = hashlib.sha256(f"{url} {work}".encode()).digest()[0] % PIECES
    default_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(default_folder() / f"work-{key}.lock", "what another process trains just now"):
        yield


class _FileLock:
    """The operating system keeps a file's lock until its holder lets go or is gone."""

    def is_held(self) -> bool:
        return True


def _lock_file(url: str, purpose: str) -> Path:
    """Return the file of a lock: beside an SQLite database, else in this machine's folder."""
    path = sqlite_path(url)
    if path is None:  # a server other than PostgreSQL: one machine may use it
        name = f"{purpose}-{hashlib.sha256(url.encode()).hexdigest()[:16]}.lock"
        default_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        return default_folder() / name
    file = path.resolve()  # one lock, by whatever link
    file = file.with_name(f"{file.name}.{purpose}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Where its file cannot be made, neither can the database's journal.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o666))
    except OSError as error:
        if not file.parent.is_dir():
            message = f"cannot make the folder {path.parent}: {error}; give another with --storage"
        else:
            message = f"cannot write beside the database: {error}; give a writable place with --storage"
        raise StorageError(message) from error
    return file


class _AdvisoryLock:
    """A lock of PostgreSQL that belongs to a session: the server drops it when the connection ends."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def is_held(self) -> bool:
        try:
            self._connection.execute(sa.select(1))
        except sa.exc.SQLAlchemyError:
            return False
        return True


@contextmanager
def _advisory(engine: sa.Engine, name: str) -> Iterator[Lock]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    connection = _with_lock(engine, key)
    try:
        yield _AdvisoryLock(connection)
    finally:
        try:
            released = connection.execute(sa.select(sa.func.pg_advisory_unlock(key))).scalar_one()
        except sa.exc.SQLAlchemyError:
            released = False
        if not released:  # the session is lost, and the lock with it
            with suppress(sa.exc.SQLAlchemyError):
                connection.invalidate()
        connection.close()


@patient
def _with_lock(engine: sa.Engine, key: int) -> sa.Connection:
    """Return a connection that has the lock; whoever waits is served in turn."""
    # Each statement for itself: a transaction that is open for long keeps the server from clearing up.
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        for setting in LOCK_SESSION:
            connection.exec_driver_sql(f"SET {setting}")
        with telling("a lock of the database, which another process has"):
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
    except BaseException:  # Ctrl-C among them: the server may give the lock to a session that nobody will release
        with suppress(sa.exc.SQLAlchemyError):
            connection.invalidate()
        connection.close()
        raise
    return connection
