"""Device locks: trainers share, timers are alone, nobody starves, the dead let go."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from nas import locks
from nas.locks import DeviceLock, default_folder, file_name

PATIENCE = 20.0
"""Longest wait for another process, in seconds: only a failure takes as long."""

HOLD = """
import sys, pathlib
from nas.locks import DeviceLock
lock = DeviceLock("device", pathlib.Path(sys.argv[1]))
print("started", flush=True)
with getattr(lock, sys.argv[2])():
    print("holds", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another process that takes the lock, says so, and lets go when told."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self.words: list[str] = []
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self.reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.words.append(line.strip())

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Holder]]:
    """Start another process that wants the lock; all are ended with the test."""
    holders: list[Holder] = []

    def start(kind: str) -> Holder:
        holders.append(Holder(tmp_path, kind))
        return holders[-1]

    yield start
    for holder in holders:
        holder.close()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def is_closed(folder: Path, kind: str) -> bool:
    """Whether nobody can enter in this way at the moment."""
    try:
        with getattr(DeviceLock("device", folder, timeout=0), kind)():
            return False
    except TimeoutError:
        return True


def test_trainers_share_and_keep_a_timer_out(tmp_path: Path, start: Callable[[str], Holder]) -> None:
    first, second = start("training"), start("training")
    assert eventually(lambda: "holds" in first.words and "holds" in second.words)
    assert not is_closed(tmp_path, "training")
    assert is_closed(tmp_path, "timing")
    first.let_go()
    assert eventually(lambda: "released" in first.words)
    assert is_closed(tmp_path, "timing")  # the second one still trains
    second.let_go()
    assert eventually(lambda: not is_closed(tmp_path, "timing"))


def test_a_timer_is_alone(tmp_path: Path, start: Callable[[str], Holder]) -> None:
    timer = start("timing")
    assert eventually(lambda: "holds" in timer.words)
    assert is_closed(tmp_path, "training")
    assert is_closed(tmp_path, "timing")
    timer.let_go()
    assert eventually(lambda: not is_closed(tmp_path, "training"))
    assert not is_closed(tmp_path, "timing")


def test_a_waiting_timer_is_not_starved_by_new_trainers(tmp_path: Path, start: Callable[[str], Holder]) -> None:
    trainer = start("training")
    assert eventually(lambda: "holds" in trainer.words)
    timer = start("timing")
    assert eventually(lambda: is_closed(tmp_path, "training"))  # waits, and has closed the turnstile behind it
    late = start("training")
    assert eventually(lambda: "started" in late.words)
    assert "holds" not in timer.words
    trainer.let_go()
    assert eventually(lambda: "holds" in timer.words)
    assert "holds" not in late.words
    timer.let_go()
    assert eventually(lambda: "holds" in late.words)


@pytest.mark.parametrize("kind", ["training", "timing"])
def test_a_killed_holder_lets_go(tmp_path: Path, start: Callable[[str], Holder], kind: str) -> None:
    holder = start(kind)
    assert eventually(lambda: "holds" in holder.words)
    assert is_closed(tmp_path, "timing")
    holder.process.kill()
    assert eventually(lambda: not is_closed(tmp_path, "timing"))
    assert "released" not in holder.words


def test_a_killed_waiter_opens_the_turnstile(tmp_path: Path, start: Callable[[str], Holder]) -> None:
    trainer = start("training")
    assert eventually(lambda: "holds" in trainer.words)
    timer = start("timing")
    assert eventually(lambda: is_closed(tmp_path, "training"))
    timer.process.kill()
    assert eventually(lambda: not is_closed(tmp_path, "training"))


def test_threads_exclude_each_other_too(tmp_path: Path) -> None:
    inside = 0
    most = 0

    def turn() -> None:
        nonlocal inside, most
        for _ in range(20):
            with DeviceLock("device", tmp_path).timing():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=turn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == 1


def test_a_timeout_names_the_lock_file(tmp_path: Path, start: Callable[[str], Holder]) -> None:
    trainer = start("training")
    assert eventually(lambda: "holds" in trainer.words)
    lock = DeviceLock("device", tmp_path, timeout=0.05)
    with pytest.raises(TimeoutError, match=str(lock.room)), lock.timing():
        pass
    with lock.training():  # the turnstile was opened again
        pass


def test_a_long_wait_says_what_for(
    tmp_path: Path, start: Callable[[str], Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    holder = start("training")
    assert eventually(lambda: "holds" in holder.words)
    lock = DeviceLock("device", tmp_path)

    def let_go_when_told() -> None:
        assert eventually(lambda: str(lock.room) in sys.stderr.getvalue())  # type: ignore[attr-defined]
        holder.let_go()

    thread = threading.Thread(target=let_go_when_told)
    thread.start()
    with lock.timing():
        pass
    thread.join()
    assert eventually(lambda: "released" in holder.words)


@pytest.mark.parametrize("first", ["training", "timing"])
@pytest.mark.parametrize("second", ["training", "timing"])
def test_asking_again_is_an_error_and_no_deadlock(tmp_path: Path, first: str, second: str) -> None:
    lock = DeviceLock("device", tmp_path)
    with getattr(lock, first)():
        with pytest.raises(RuntimeError, match="not re-entrant"), getattr(DeviceLock("device", tmp_path), second)():
            pass
        with DeviceLock("another device", tmp_path).timing():
            pass
    with lock.timing():
        pass


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    lock = DeviceLock("device", tmp_path)
    for kind in ("training", "timing"):
        with pytest.raises(KeyError), getattr(lock, kind)():
            raise KeyError
        assert not is_closed(tmp_path, "timing")


def test_without_flock_everybody_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def no_flock(path: Path, shared: bool, deadline: float | None) -> Iterator[None]:
        with locks._filelock(path, shared, deadline):
            yield

    monkeypatch.setattr(locks, "_flock", no_flock)
    seen: list[bool] = []
    for kind in ("training", "timing"):
        with getattr(DeviceLock("device", tmp_path), kind)():
            for other in ("training", "timing"):
                thread = threading.Thread(target=lambda other=other: seen.append(is_closed(tmp_path, other)))
                thread.start()
                thread.join(PATIENCE)
        assert not is_closed(tmp_path, "timing")
    assert seen == [True] * 4


def test_names_are_safe_and_distinct() -> None:
    assert file_name("cuda: NVIDIA A100 / 80 GB").startswith("cuda-nvidia-a100-80-gb-")
    assert file_name("cpu 1") != file_name("cpu-1")
    assert len(file_name("x" * 500)) < 100


def test_the_default_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    assert default_folder().parent == tmp_path
    with DeviceLock("device").timing():
        assert default_folder().stat().st_mode & 0o077 == 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="device_name must not be empty"):
        DeviceLock("")
    with pytest.raises(ValueError, match="timeout must not be negative, but got -1"):
        DeviceLock("cpu", timeout=-1)
