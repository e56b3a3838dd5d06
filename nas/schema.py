"""The version of the project's own tables, and how those of an older version are brought up to date.

One step per version, in order. Each is made in one transaction with the note of the version, so that it is made once
and whole whatever happens: the process may be killed, and others may begin it at the same moment.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

import sqlalchemy as sa

from nas.backup import copy, read_only
from nas.database_errors import StorageError

SCHEMA_VERSION = "3"
"""Version of the tables as nas/store.py declares them; its change takes a step in :data:`MIGRATIONS`."""
_META = sa.table("nas_meta", sa.column("key"), sa.column("value"))


def _count_beats(connection: sa.Connection) -> None:
    """Let a worker count its signs of life: whether it gives any can then be seen without trusting a clock."""
    _add_column(connection, "nas_workers", "beats", "INTEGER NOT NULL DEFAULT 0")


def _add_column(connection: sa.Connection, table: str, name: str, kind: str) -> None:
    """Add a column unless it is there: MySQL keeps a change of a table even if the transaction is rolled back."""
    if name not in {column["name"] for column in sa.inspect(connection).get_columns(table)}:
        connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN {name} {kind}"))


MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {2: _count_beats}
"""For each older version that can be brought up to date, the step to the next one."""


def version_of(engine: sa.Engine) -> str | None:
    """Return the version of the tables in a database; None where there are none yet."""
    if not sa.inspect(engine).has_table(_META.name):
        return None
    with engine.connect() as connection:
        found: str | None = connection.execute(_VERSION).scalar_one_or_none()
    return found


_VERSION = sa.select(_META.c.value).where(_META.c.key == "schema")


def check_readable(engine: sa.Engine) -> None:
    """Raise unless the tables of a database can be read: they are of this version or of an older one.

    Raises:
        StorageError: If they are of a newer version, or too old to be brought up to date.
    """
    _steps(version_of(engine))


def migrate(engine: sa.Engine, path: Path | None) -> list[int]:
    """Bring the tables of a database up to date. New ones are not made here; where there are none, nothing is done.

    Args:
        engine: The database.
        path: The file of an SQLite database: it is copied to a file beside it first. None for another database.

    Returns:
        The versions that were left behind, in order: empty if the tables were of this version, or another process has
        done it.

    Raises:
        StorageError: If they are of a newer version, or too old, or the copy cannot be made.
    """
    steps = _steps(found := version_of(engine))
    if not steps:
        return []
    if path is not None:
        _keep_copy(path, str(found))
    return [version for version in steps if _step(engine, version)]


def _steps(found: str | None) -> list[int]:
    """Return the versions from which a step has to be made, in order.

    Raises:
        StorageError: If there is no such way.
    """
    current = int(SCHEMA_VERSION)
    if found is None or found == SCHEMA_VERSION:
        return []
    words = f"the database has schema {found} of the nas_ tables, but this version of the program"
    if not found.isdecimal() or int(found) > current:
        raise StorageError(f"{words} reads {SCHEMA_VERSION}; use the newer version that has made it")
    steps = list(range(int(found), current))
    if steps[0] not in MIGRATIONS:
        raise StorageError(f"{words} reads {SCHEMA_VERSION}, and none older than {min(MIGRATIONS)}")
    return steps


def _step(engine: sa.Engine, version: int) -> bool:
    """Go from one version to the next, unless another process does; tell whether it was done here."""
    with engine.begin() as connection:
        # First, as it takes the lock under which the rest is done; who comes second finds another version and stops.
        changed = connection.execute(
            sa.update(_META)
            .where(_META.c.key == "schema", _META.c.value == str(version))
            .values(value=str(version + 1))
        )
        if changed.rowcount:
            MIGRATIONS[version](connection)
        return bool(changed.rowcount)


def copy_before(path: Path, version: str) -> Path:
    """Return where the copy of an SQLite file is kept that is made before its tables leave a version behind."""
    return path.with_name(f"{path.stem}.schema-{version}{path.suffix}")


def _keep_copy(path: Path, version: str) -> None:
    """Copy a file, if it is still of the version: whoever came first may have brought it up to date meanwhile.

    Raises:
        StorageError: If that fails.
    """
    made = path.with_name(f".{path.name}.{os.getpid()}.schema.tmp")
    try:
        copy(path, made)
        with closing(read_only(made)) as connection:
            (kept,) = connection.execute("SELECT value FROM nas_meta WHERE key = 'schema'").fetchone()
        if kept == version:
            os.replace(made, copy_before(path, version))
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"the tables of {path} have to be brought from schema {version} to {SCHEMA_VERSION}, but the copy that is "
            f"kept of them could not be written: {error}"
        ) from error
    finally:
        with suppress(OSError):
            made.unlink(missing_ok=True)
