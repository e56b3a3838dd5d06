"""A worker's signs of life: a lock that the operating system drops with the process, and a heartbeat in the database.

Optuna's own heartbeat runs only inside ``Study.optimize``, and never covers a trial that was killed before its first
beat.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from types import TracebackType

import filelock
import sqlalchemy as sa

from nas.locks import default_folder
from nas.store import Store

BEAT_SECONDS = 10.0
"""Pause between two heartbeats."""
GRACE_SECONDS = 120.0
"""Silence after which a worker on another machine is taken for dead."""


class Worker:
    """This process, as others see it; a context manager that gives signs of life while it is open."""

    def __init__(self, store: Store) -> None:
        self.id = f"{_host()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._store = store
        default_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = filelock.FileLock(_lock_path(self.id))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Worker:
        self._lock.acquire()
        self._store.beat(self.id)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._store.forget(self.id)
        self._lock.release()
        with contextlib.suppress(OSError):
            os.unlink(_lock_path(self.id))

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A beat that the database misses is made up for by the next one; the grace allows for many.
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._store.beat(self.id)


def is_dead(worker: str | None, store: Store) -> bool:
    """Tell whether a worker can no longer finish its trial.

    On this machine the answer is immediate, from the worker's lock; for another machine it takes ``GRACE_SECONDS`` of
    silence. A trial without a worker was cut off in the moment of its start.
    """
    if worker is None:
        return True
    path = _lock_path(worker)
    if worker.split(":")[0] == _host() and os.path.exists(path):
        probe = filelock.FileLock(path)
        try:
            probe.acquire(timeout=0)
        except filelock.Timeout:
            return False
        probe.release()
        return True
    return store.silent_seconds(worker) > GRACE_SECONDS


def _host() -> str:
    return socket.gethostname().replace(":", "-").replace("/", "-") or "host"


def _lock_path(worker: str) -> str:
    return str(default_folder() / f"worker-{worker.replace(':', '-')}.lock")
