"""One clock at a time per device: locks across processes that keep trainers away while a latency is measured.

Why not filelock's ``ReadWriteLock``: it is newer than the oldest release that this package accepts, keeps its state in
a SQLite file and prefers a waiting writer only while that writer waits in one piece, not when it polls for a timeout.
Two files and ``flock`` are enough for what is needed here; the kernel drops them when their holder is killed.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import filelock

POLL_SECONDS = 0.01
"""Pause between two attempts while a timeout is running, in seconds."""
TELL_SECONDS = 60.0
"""After so long a wait a line says what is waited for, in seconds."""

_held = threading.local()


class DeviceLock:
    """Lets many processes train on a device at once, but measure on it only one at a time and undisturbed.

    A timer that waits closes the turnstile behind it: trainers that are inside finish their turn, new ones wait, so a
    stream of trainers cannot starve it. Trainers should therefore take a short turn, such as an epoch, at a time.

    The operating system releases the lock of a process that dies, however it dies. The locks bind the processes of one
    user that share a temporary folder. Where there is no ``flock`` (Windows), trainers exclude each other too: slower,
    never wrong. Start no process by ``fork`` while holding the lock: if the holder is killed, its child would keep it.

    Not re-entrant: every use opens its own descriptor, so a thread that asks again for what it holds would wait for
    itself. It gets a ``RuntimeError`` instead.
    """

    def __init__(self, device_name: str, folder: Path | None = None, *, timeout: float | None = None) -> None:
        """Name the lock; nothing is opened before the first use.

        Args:
            device_name: What tells the device apart on this machine, such as ``latency.lock_name(device)``.
            folder: Where the lock files lie; by default a folder of this user under the temporary folder.
            timeout: Longest wait for one use, in seconds; None waits for ever.

        Raises:
            ValueError: If the name is empty or the timeout is negative.
        """
        if not device_name:
            raise ValueError("device_name must not be empty")
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout must not be negative, but got {timeout}")
        folder = default_folder() if folder is None else folder
        self.turnstile = folder / f"{file_name(device_name)}.turnstile.lock"
        self.room = folder / f"{file_name(device_name)}.room.lock"
        self.timeout = timeout

    @contextmanager
    def training(self) -> Iterator[None]:
        """Hold the device for training, together with any number of other trainers.

        Raises:
            TimeoutError: If a timer kept the device for longer than the timeout; the message names the lock file.
            RuntimeError: If this thread already holds the lock.
        """
        with self._once(), self._enter(shared=True):
            yield

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Hold the device alone: no trainer trains and no other timer times meanwhile.

        Raises:
            TimeoutError: If the device was not free within the timeout; the message names the lock file.
            RuntimeError: If this thread already holds the lock.
        """
        with self._once(), self._enter(shared=False):
            yield

    @contextmanager
    def _enter(self, *, shared: bool) -> Iterator[None]:
        """Go through the turnstile into the room; a trainer leaves the turnstile open behind it, a timer does not.

        Whoever is in the turnstile never waits there for somebody outside it: only trainers can be in the room, and
        they leave it without passing the turnstile again. That rules out deadlock.
        """
        hold: Callable[[Path, bool, float | None], AbstractContextManager[None]]
        hold = _flock if os.name == "posix" else _filelock
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        self.room.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as gate, ExitStack() as inside:
            gate.enter_context(hold(self.turnstile, False, deadline))
            inside.enter_context(hold(self.room, shared, deadline))
            if shared:
                gate.close()
            yield

    @contextmanager
    def _once(self) -> Iterator[None]:
        """Refuse a second use by the same thread, which would wait for itself."""
        names: set[Path] = _held.__dict__.setdefault("names", set())
        if self.room in names:
            raise RuntimeError(f"this thread already holds {self.room}; a device lock is not re-entrant")
        names.add(self.room)
        try:
            yield
        finally:
            names.discard(self.room)


def default_folder() -> Path:
    """Return this user's folder for lock files, under the temporary folder."""
    user = str(os.getuid()) if hasattr(os, "getuid") else file_name(getpass.getuser())
    return Path(tempfile.gettempdir()) / f"nas-locks-{user}"


def file_name(device_name: str) -> str:
    """Return a safe file name that two device names share only if they are equal."""
    readable = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(device_name.encode()).hexdigest()[:8]}"


@contextmanager
def exclusive(path: Path, words: str) -> Iterator[None]:
    """Hold a file alone, for as long as it takes to get it; whoever waits is served in turn.

    The operating system lets go of it when the process ends, however it ends.

    Args:
        path: The file; it is made if there is none, in a folder that must be there.
        words: What it stands for: said on stderr to whoever waits for long.
    """
    if os.name == "posix":
        with _flock(path, False, None, words):
            yield
    else:
        with _filelock(path, False, None):
            yield


_DEVICE = "the device, which another process trains or times on"


@contextmanager
def _flock(path: Path, shared: bool, deadline: float | None, words: str = _DEVICE) -> Iterator[None]:
    """Hold a file by ``flock`` on a descriptor of its own, so that threads exclude each other as processes do."""
    import fcntl  # absent on Windows

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if deadline is None:
            with telling(f"{words} ({path})"):
                fcntl.flock(descriptor, kind)  # the kernel queues who waits here, which polling would not
        else:
            _poll(lambda: fcntl.flock(descriptor, kind | fcntl.LOCK_NB), path, deadline)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it to a forked child's copy
    finally:
        os.close(descriptor)


@contextmanager
def telling(words: str) -> Iterator[None]:
    """Say on stderr what is waited for, if that takes long: a process that was suspended would never let go."""
    told = f"waiting for {words}, or holds while suspended"
    timer = threading.Timer(TELL_SECONDS, print, (f"\n{told}",), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _poll(attempt: Callable[[], None], path: Path, deadline: float) -> None:
    """Repeat an attempt that raises BlockingIOError until it succeeds or the deadline passes."""
    while True:
        try:
            return attempt()
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the device was not free in time: {path} is held by another process") from None
        time.sleep(POLL_SECONDS)


@contextmanager
def _filelock(path: Path, shared: bool, deadline: float | None) -> Iterator[None]:
    """Hold a file by the filelock package, which knows exclusive locks only: trainers then take turns."""
    timeout = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
    lock = filelock.FileLock(str(path), timeout=timeout)
    try:
        lock.acquire(poll_interval=POLL_SECONDS)
    except filelock.Timeout:
        raise TimeoutError(f"the device was not free in time: {path} is held by another process") from None
    try:
        yield
    finally:
        lock.release()
