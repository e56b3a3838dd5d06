"""Open the one database that holds Optuna's tables and ours."""

from __future__ import annotations

import hashlib
import sqlite3

import filelock
import optuna
import sqlalchemy as sa

from nas.evaluation import first_line
from nas.locks import default_folder
from nas.secret import hidden, shown
from nas.store import BUSY_TIMEOUT_SECONDS, StorageError, Store, check_ours, prepare_sqlite, sqlite_path

LOCK_TIMEOUT_SECONDS = 120
TRAINING_LOCKS = 32
"""Further trainings that different processes may work on at once."""
DATABASE_ERRORS = (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError, StorageError)
"""What is raised where the database fails, and not what is evaluated."""


def connect(url: str) -> tuple[optuna.storages.RDBStorage, Store]:
    """Open a database for writing; make it and its tables where they are missing.

    Raises:
        StorageError: If it cannot be written, belongs to something else, or cannot be reached.
    """
    path = sqlite_path(url)
    # Tables are made by one process at a time: a race there ends in "table already exists".
    with lock(url, "schema"):
        if path is not None:
            prepare_sqlite(path)
        storage, store = _open(url)
        store.create()
    return storage, store


def connect_existing(url: str) -> tuple[optuna.storages.RDBStorage, Store]:
    """Open a database that must be there already.

    Raises:
        StorageError: If there is none, or it is not ours.
    """
    path = sqlite_path(url)
    if path is not None:
        if not path.is_file():
            raise StorageError(f"no database {path}; run a search first, or give another with --storage")
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)
        try:
            check_ours(connection, path, used=True)
        finally:
            connection.close()
    return _open(url)


_READ_ONLY = {
    "sqlite": "PRAGMA query_only=ON",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
}
"""What makes a database refuse the writes of one connection, by the name of its dialect."""


def seal(storage: optuna.storages.RDBStorage) -> None:
    """Let a database refuse all writes by way of a storage from now on, where it knows how to."""
    statement = _READ_ONLY.get(storage.engine.dialect.name)
    if statement is None:
        return

    @sa.event.listens_for(storage.engine, "connect")
    def _set(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()  # PostgreSQL forgets what is set in a transaction that is rolled back

    storage.engine.dispose()  # connections that were opened before


def study_names(url: str) -> list[str]:
    """Return the names of the studies in a database.

    Raises:
        StorageError: As :func:`connect_existing`.
    """
    storage, store = connect_existing(url)
    names = sorted(optuna.get_all_study_names(storage))
    storage.engine.dispose()
    store.close()
    return names


def lock(url: str, purpose: str) -> filelock.BaseFileLock:
    """Return a lock that is shared by all processes on this machine that use the database."""
    path = sqlite_path(url)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {path.parent}: {error}; give another with --storage") from error
        return _FolderLock(path.with_name(f"{path.name}.{purpose}.lock"), timeout=LOCK_TIMEOUT_SECONDS)
    return _lock_of_machine(purpose, url, timeout=LOCK_TIMEOUT_SECONDS)


def training_lock(url: str, architecture: str, seed: int) -> filelock.BaseFileLock:
    """Return the lock under which one architecture is trained again with one seed, by one process of this machine.

    Locks leave files behind, so that there are some for all trainings: two that share one wait for each other.
    """
    key = hashlib.sha256(f"{url} {architecture} {seed}".encode()).digest()[0] % TRAINING_LOCKS
    return _lock_of_machine(f"again-{key}", url, timeout=-1)


def _lock_of_machine(purpose: str, url: str, timeout: float) -> filelock.BaseFileLock:
    name = f"{purpose}-{hashlib.sha256(url.encode()).hexdigest()[:16]}.lock"
    folder = default_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return filelock.FileLock(folder / name, timeout=timeout)


class _FolderLock(filelock.FileLock):
    """A lock beside the database; where its file cannot be made, neither can the database's journal."""

    def _acquire(self) -> None:
        try:
            super()._acquire()
        except OSError as error:
            message = f"cannot write beside the database: {error}; give a writable place with --storage"
            raise StorageError(message) from error


def _commit_quickly(engine: sa.Engine) -> None:
    """Let Optuna's some thirty commits a trial not wait for the disk.

    A killed process loses nothing by that. A power cut may lose the last trials, but not what was measured: the store
    does wait for the disk, and what it holds is not measured again.
    """

    @sa.event.listens_for(engine, "connect")
    def _set(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # connections that were opened before


def _open(url: str) -> tuple[optuna.storages.RDBStorage, Store]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments = {"timeout": BUSY_TIMEOUT_SECONDS} if sqlite_path(url) is not None else {}
    # Optuna passes the URL through str.format, so braces (in a password) must be doubled.
    escaped = url.replace("{", "{{").replace("}", "}}")
    try:
        storage = optuna.storages.RDBStorage(escaped, engine_kwargs={"connect_args": arguments, "pool_pre_ping": True})
        if sqlite_path(url) is not None:
            _commit_quickly(storage.engine)
        return storage, Store(url)
    except (sa.exc.SQLAlchemyError, ImportError, RuntimeError, TypeError) as error:  # TypeError: a query it cannot take
        reason = hidden(first_line(error), [url])
        raise StorageError(f"cannot use the database {shown(url)}: {reason}") from error
