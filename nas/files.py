"""Write files so that no reader, and no crash, ever meets half of one."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

SHARE = 0.005
"""Largest share of the time that :class:`Sparing` spends."""


class Sparing:
    """Does something again and again, but only as often as it takes a small share of the time."""

    def __init__(self, work: Callable[[], object], share: float = SHARE) -> None:
        """Say what to do.

        Args:
            work: What to do.
            share: Largest share of the time that it may take, above 0.
        """
        self._work = work
        self._share = share
        self._next = -float("inf")
        self._is_first = True

    def __call__(self, *, now: bool = False) -> None:
        """Do it, unless it was done so lately that it would take more than its share; ``now`` does it in any case.

        What the first time takes does not count: it may be imports, mostly.
        """
        started = time.monotonic()
        if not now and started < self._next:
            return
        self._work()
        ended = time.monotonic()
        self._next = started if self._is_first else ended + (ended - started) / self._share
        self._is_first = False


def check_folder(folder: str | Path) -> None:
    """Make a folder and check that it can be written, before work is done whose result would have no place to go.

    Raises:
        ValueError: If it cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into the folder {folder}: {error.strerror}; give another") from error


def replace(path: str | Path, content: bytes) -> None:
    """Write a file under another name in the same folder and rename it; missing folders are made.

    Raises:
        OSError: If the folder cannot be written; an older file of that name is then still whole.
    """
    path = Path(path).resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # and not the name that was to be renamed
    finally:
        temporary.unlink(missing_ok=True)
