"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# One thread: the tests compute little, and threads that spin for each other make them many times slower on a busy
# machine. Set before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it runs in the background ignore Ctrl-C, and so would whatever the tests start to be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# tests/rows.py and tests/study/toy.py are imported by several test files; the kill tests run toy.py as a script.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "study")]
# Benchmarks with logic of their own are tested, too.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture(scope="session")
def _server() -> Iterator[object]:
    """Start a PostgreSQL of our own; a session's tests share it."""
    from server import Server

    server = Server.start_or_skip(Path(tempfile.mkdtemp(prefix="pg")))  # not tmp_path: its socket needs a short path
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def postgres(_server: object) -> Iterator[object]:
    """Return a running server with an empty database of its own, see tests/server.py."""
    from server import Server

    assert isinstance(_server, Server)
    _server.create()
    yield _server
    _server.start()  # a test may have stopped it
    _server.drop()
