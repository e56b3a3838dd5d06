"""Workers' signs of life: a lock that the operating system drops with the process, and beats in the database.

Optuna's own heartbeat runs only inside ``Study.optimize``, and never covers a trial that was killed before its first
beat.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from types import TracebackType

import filelock
import sqlalchemy as sa

from nas.database import patient
from nas.locks import default_folder
from nas.store import Sign, Store

BEAT_SECONDS = 10.0
"""Pause between two beats, and between two looks at those of the others."""
GRACE_SECONDS = 120.0
"""Silence after which a worker on another machine is taken for dead."""
SURE_LOOKS = 3
"""So many looks in a row have to find a worker silent, whatever the database's clock says of its last beat."""


class Worker:
    """This process, as others see it, and the others, as it sees them; a context manager that is alive while open."""

    def __init__(self, store: Store) -> None:
        self.id = f"{_host()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.watch = Watch(store)
        self._store = store
        default_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = filelock.FileLock(_lock_path(self.id))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> Worker:
        self._lock.acquire()
        self.beat()
        self._bury_the_dead()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._bury_the_dead()
        self._lock.release()
        # Where the database is gone the file stays, which nobody holds: it tells that the worker is, too.
        bury(self.id, self._store)

    def beat(self) -> None:
        """Give a sign of life: whoever claims a trial without one is taken for dead."""
        patient(self._store.beat)(self.id)

    def _bury_the_dead(self) -> None:
        """Remove what workers of this machine have left that were killed while they had no trial."""
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            for worker in self._store.signs():
                if _holds_its_lock(worker) is False:
                    bury(worker, self._store)

    def _live(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A beat that the database misses is made up for by the next one; the grace allows for many. Whatever else
            # may be wrong must not end the beats.
            with contextlib.suppress(Exception):
                self._store.beat(self.id)
            self.watch.look()


class Watch:
    """Tells which workers are dead, by their locks on this machine, and by their beats on any.

    No clock is trusted alone. The database's may be set, forward as well as back, and a server that was away for some
    minutes has let nobody beat meanwhile. So beats are watched: a worker is dead if none has come for
    :data:`GRACE_SECONDS`, and none in the last :data:`SURE_LOOKS` looks, each of which the database has answered.
    Whoever has watched for all of that time needs no clock at all.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._signs: dict[str, Sign] = {}
        self._silent: dict[str, int] = {}
        self._guard = threading.Lock()

    def look(self) -> None:
        """Look once at all workers' beats; to be called every :data:`BEAT_SECONDS`."""
        try:
            signs = self._store.signs()
        except Exception:
            signs = {}  # nobody could beat while the database was away: all counts begin anew
        with self._guard:
            self._silent = {
                worker: self._silent.get(worker, 0) + 1 if sign.is_same(self._signs[worker]) else 0
                for worker, sign in signs.items()
                if worker in self._signs
            }
            self._signs = signs

    def is_dead(self, worker: str | None) -> bool:
        """Tell whether a worker can no longer finish its trial.

        On this machine the answer is immediate; for another machine it takes :data:`GRACE_SECONDS` of silence. A trial
        without a worker was cut off in the moment of its start.
        """
        if worker is None:
            return True
        alive = _holds_its_lock(worker)
        if alive is not None:
            return not alive
        with self._guard:
            sign, silent = self._signs.get(worker), self._silent.get(worker, 0)
        if sign is None:
            return not self._has_beaten(worker)
        if silent < SURE_LOOKS:
            return False
        # A clock that was set back puts the last beat into the future.
        return abs(sign.silent_seconds) > GRACE_SECONDS or silent * BEAT_SECONDS > GRACE_SECONDS

    def _has_beaten(self, worker: str) -> bool:
        """Tell whether a worker was ever seen: it beats before it claims a trial, and is forgotten when it ends."""
        try:
            return worker in self._store.signs()
        except sa.exc.SQLAlchemyError:
            return True


def watched(store: Store) -> Watch:
    """Return a watch that knows who is dead, for one who does not work: where somebody has long been silent, it takes
    a while to be sure of it.
    """
    watch = Watch(store)
    watch.look()
    for look in range(SURE_LOOKS):
        signs = store.signs().items()
        if not any(abs(sign.silent_seconds) > GRACE_SECONDS and _holds_its_lock(each) is None for each, sign in signs):
            break
        if look == 0:
            print(f"watching the workers of other machines for {SURE_LOOKS * BEAT_SECONDS:.0f} s", file=sys.stderr)
        time.sleep(BEAT_SECONDS)
        watch.look()
    return watch


def _holds_its_lock(worker: str) -> bool | None:
    """Tell whether a worker of this machine is alive; None if there is no lock to tell by."""
    path = _lock_path(worker)
    if worker.split(":")[0] != _host() or not os.path.exists(path):
        return None
    probe = filelock.FileLock(path)
    try:
        probe.acquire(timeout=0)
    except filelock.Timeout:
        return True
    probe.release()
    return False


def bury(worker: str, store: Store) -> None:
    """Remove what a dead worker has left behind."""
    with contextlib.suppress(sa.exc.SQLAlchemyError, OSError):
        store.forget(worker)
        if worker.split(":")[0] == _host():
            os.unlink(_lock_path(worker))


def _host() -> str:
    return socket.gethostname().replace(":", "-").replace("/", "-") or "host"


def _lock_path(worker: str) -> str:
    return str(default_folder() / f"worker-{worker.replace(':', '-')}.lock")
