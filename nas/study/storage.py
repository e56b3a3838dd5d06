"""Open the one database that holds Optuna's tables and ours."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import optuna
import sqlalchemy as sa

from nas.database import (
    BUSY_TIMEOUT_SECONDS,
    StorageError,
    cause,
    check_ours,
    engine_arguments,
    patient,
    prepare_sqlite,
    sqlite_path,
)
from nas.secret import hidden, shown
from nas.store import Store
from nas.study.sparing import SparingStorage

DATABASE_ERRORS = (sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError, StorageError)
"""What is raised where the database fails, and not what is evaluated."""


class Storage(SparingStorage):
    """Optuna's tables in a database that may be away for a while.

    Where the answer to a write is lost, the write is repeated: an attribute is set twice to the same, and a trial that
    was begun twice is repaired by whoever looks next, as one that nobody works on (:meth:`nas.study.Study.repair`).
    """


for _name in (
    "_create_new_trial",
    "_get_trials",
    "_set_trial_param",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
):
    setattr(Storage, _name, patient(getattr(SparingStorage, _name)))


def connect(url: str) -> tuple[optuna.storages.RDBStorage, Store]:
    """Open a database for writing; make it and its tables where they are missing.

    Raises:
        StorageError: If it cannot be written, belongs to something else, or cannot be reached.
    """
    path = sqlite_path(url)
    store = _store(url)
    try:
        with _reaching(url):
            if path is None:
                store.is_there()
            # Tables are made by one process at a time: a race there ends in "table already exists".
            with store.lock("schema"):
                if path is not None:
                    prepare_sqlite(path)
                storage = _storage(url)
                store.create()
    except BaseException:
        store.close()
        raise
    return storage, store


def reach(url: str) -> None:
    """Look once whether a database can be used, so that it is found before anything else is done; nothing is written.

    Raises:
        StorageError: If a server cannot be reached, or a file is no database or that of another program.
    """
    path = sqlite_path(url)
    if path is None:
        with _reaching(url), closing(Store(url)) as store:
            store.is_there()
    elif path.is_file():
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
            check_ours(connection, path)


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
    store = _store(url)
    try:
        with _reaching(url):
            if path is None and not store.is_there():
                raise StorageError(f"no studies in the database {shown(url)}; run a search first")
            return _storage(url), store
    except BaseException:
        store.close()
        raise


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


def _commit_quickly(engine: sa.Engine) -> None:
    """Let Optuna's some thirty commits a trial not wait for the disk.

    A killed process loses nothing by that. A power cut may lose the last trials, but not what was measured: the store
    does wait for the disk, and what it holds is not measured again.
    """

    @sa.event.listens_for(engine, "connect")
    def _set(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # connections that were opened before


def _storage(url: str) -> Storage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna passes the URL through str.format, so braces (in a password) must be doubled.
    escaped = url.replace("{", "{{").replace("}", "}}")
    storage = Storage(escaped, engine_kwargs=engine_arguments(url, 1))
    if sqlite_path(url) is not None:
        _commit_quickly(storage.engine)
    return storage


def _store(url: str) -> Store:
    with _reaching(url):
        return Store(url)


_CANNOT_OPEN = (
    sa.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    ImportError,  # no driver
    RuntimeError,  # tables of another version of Optuna
    TypeError,  # something behind the question mark that the driver does not take
)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Say which database it is that cannot be opened.

    Raises:
        StorageError: If it cannot.
    """
    try:
        yield
    except _CANNOT_OPEN as error:
        reason = hidden(cause(error), [url])
        raise StorageError(f"cannot use the database {shown(url)}: {reason}{_hint(url)}") from error


def _hint(url: str) -> str:
    """Return how PostgreSQL's driver is installed, where it is missing."""
    if "+psycopg:" in url and importlib.util.find_spec("psycopg") is None:
        return "; pip install 'attention-placement-nas[postgres]' installs its driver"
    return ""
