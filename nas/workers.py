"""Several processes that work on one study at once, and the one that starts them, watches them and trains nothing.

Each worker searches as if it were alone: it asks the study what to do next, and together they stop at the budget. One
that dies leaves its trial to the others, who see from its lock that it is gone; another one is started in its place.

What the processes say to each other goes through a pipe for each worker. There is nothing that they share: a lock, and
so an event or a queue of :mod:`multiprocessing`, stays locked for ever if its holder is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

from nas.study import RunFailed

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

T = TypeVar("T")

POLL_SECONDS = 0.2
"""Longest pause between two looks at the workers, and at whether they are to stop."""
PATIENCE_SECONDS = 30.0
"""How long workers that were told to end may take before they are killed."""
MOST_DEATHS = 5
"""So many workers, and one more for each that works at once, may die before a trial ends: then something is wrong."""
_READY, _NEWS, _RESULT, _FAILED = "ready", "news", "result", "failed"
_GO, _STOP = "go", "stop"


class Line:
    """What a worker says to the process that watches it, and hears from it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stops = False

    def ready(self) -> None:
        """Say that what has to be loaded is there, and wait until all others say so: loading disturbs what is timed."""
        self._say(_READY, None)
        self._hear()

    def tell(self, news: object) -> None:
        """Say that a trial has ended, or something else that took some training; with anything that can be pickled."""
        self._say(_NEWS, news)

    def stop(self) -> bool:
        """Tell whether no further training is to begin."""
        while not self._stops and self._connection.poll():
            self._hear()
        return self._stops

    def _say(self, kind: str, content: object) -> None:
        with suppress(OSError):  # the other process is gone, which is heard
            self._connection.send((kind, content))

    def _hear(self) -> None:
        try:
            self._stops = self._connection.recv() == _STOP
        except (EOFError, OSError):
            self._stops = True


Work = Callable[[T, Line], Any]
"""What a worker does: a function of a module, as it is looked up by its name there. What it returns can be pickled."""


def supervise(
    work: Work[T],
    arguments: Sequence[T],
    *,
    on_news: Callable[[list[Any]], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Any]:
    """Have a worker work with each of the arguments, and return what they return, in the order of their ends.

    They begin when all of them are ready. One that dies is started again. When this ends by an exception, Ctrl-C among
    them, the workers are told to end: they queue what they have in hand. They end likewise if this process is killed.

    Args:
        work: What each of them does.
        arguments: What each of them is given.
        on_news: Called with what they told since the last time.
        say: Called with a line for people if one died.
        stop: Looked at all the time; once it is true the workers are asked to begin no further training, and to return.

    Raises:
        RunFailed: If one of them ended by an exception, with its message; or if more than :data:`MOST_DEATHS` and
            one for each worker died before a trial ended.
    """
    crew = _Crew(work, arguments, on_news, say)
    try:
        return crew.watch(stop)
    finally:
        crew.end()


@dataclass
class _Member:
    """A worker, as the process that watches it sees it."""

    place: int
    process: SpawnProcess
    connection: Connection
    is_ready: bool = False
    ended_at: float | None = None
    """When it said that it is done; how its process ends is of no interest then."""

    @property
    def name(self) -> str:
        return f"worker {self.place + 1}"


class _Crew:
    """The workers, and what came of them so far."""

    def __init__(
        self, work: Work[T], arguments: Sequence[T], on_news: Callable[[list[Any]], None], say: Callable[[str], None]
    ) -> None:
        self._work, self._arguments = work, arguments
        self._on_news, self._say = on_news, say
        self._members: dict[int, _Member] = {}
        self._results: list[Any] = []
        self._deaths = 0  # since a trial ended
        self._has_begun = self._stops = False

    def watch(self, stop: Callable[[], bool]) -> list[Any]:
        """Start the workers, and return what they return."""
        for place in range(len(self._arguments)):
            self._start(place)
        while self._members:
            self._look()
            if not self._stops and stop():
                if not self._has_begun:
                    return self._results  # nothing is in work yet that could be finished
                self._stops = True
                self._order(_STOP)
            if not self._has_begun and all(member.is_ready for member in self._members.values()):
                self._has_begun = True
                self._order(_GO)
        return self._results

    def end(self) -> None:
        """Tell the workers that are left to end, and kill those that do not."""
        members = list(self._members.values())
        try:
            for member in members:
                member.process.terminate()
            deadline = time.monotonic() + PATIENCE_SECONDS
            for member in members:
                member.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for member in members:
                member.process.kill()
                member.process.join()

    def _start(self, place: int) -> None:
        # Spawned and not forked: a forked child cannot use CUDA, and inherits locks that nobody in it will release.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (self._work, self._arguments[place], theirs)
        process = context.Process(target=_run, args=arguments, name=f"worker {place + 1}")
        with _without_ctrl_c():
            process.start()
            self._members[place] = _Member(place, process, ours)
        theirs.close()  # or nothing would end when the worker does

    def _order(self, what: str, members: Sequence[_Member] | None = None) -> None:
        for member in self._members.values() if members is None else members:
            with suppress(OSError):  # it has just died, and will be found so
                member.connection.send(what)

    def _look(self) -> None:
        """Wait until something happens, and take note of it."""
        members = list(self._members.values())
        wait([each for member in members for each in (member.connection, member.process.sentinel)], POLL_SECONDS)
        news: list[Any] = []
        for member in members:
            # Asked before it is listened to, so that nothing is missed that it said last. Whether the pipe is closed
            # says less: what a worker has started itself may hold it open.
            is_gone = member.process.exitcode is not None
            self._listen(member, news)
            if is_gone:
                self._bury(member)
            elif member.ended_at is not None and time.monotonic() > member.ended_at + PATIENCE_SECONDS:
                member.process.kill()  # a library that does not let go at exit
        if news:
            self._deaths = 0
            self._on_news(news)

    def _listen(self, member: _Member, news: list[Any]) -> None:
        while True:
            try:
                if not member.connection.poll():
                    return
                kind, content = member.connection.recv()
            except (EOFError, OSError):
                return
            if kind == _NEWS:
                news.append(content)
            elif kind == _RESULT:
                member.ended_at = time.monotonic()
                self._results.append(content)
            elif kind == _FAILED:
                message, trace = content
                raise RunFailed(message) from _WorkerError(f"in {member.name}:\n{trace}")
            else:
                member.is_ready = True
                if self._stops or self._has_begun:
                    self._order(_STOP if self._stops else _GO, [member])

    def _bury(self, member: _Member) -> None:
        """Take leave of a worker whose process is gone; start another one if it was not done."""
        del self._members[member.place]
        member.connection.close()
        if member.ended_at is not None:
            return
        self._deaths += 1
        how = words_of(member.process.exitcode or 0)
        if self._stops:
            self._say(f"{member.name} {how}; what it had in work is queued again")
            return
        if self._deaths > MOST_DEATHS + len(self._arguments):
            raise RunFailed(f"{self._deaths} workers died, and no trial ended in between; the last one {how}")
        self._say(f"{member.name} {how}; it is started again, and what it had in work is queued again")
        self._start(member.place)


class _WorkerError(Exception):
    """The traceback of a worker's exception, for whoever wants to see where it was raised."""


def words_of(status: int) -> str:
    """Return in words how a process ended that was to go on, from its exit status; a signal's is negative."""
    if status >= 0:
        return f"ended with exit status {status}"
    known = {each.value: each.name for each in signal.Signals}
    hints = {
        "SIGKILL": " (as the system does where memory runs out)",
        "SIGTERM": " (somebody told it to end)",
        "SIGSEGV": " (a library crashed)",
        "SIGBUS": " (a library crashed, or there is too little shared memory)",
    }
    name = known.get(-status, f"signal {-status}")
    return f"was ended by {name}{hints.get(name, '')}"


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Let what is started meanwhile never see Ctrl-C, which a terminal sends to all: here it waits for the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started with the first worker, it would let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: Work[T], argument: T, connection: Connection) -> None:
    """Work, and end in order when told to, or when the first process is gone: the trial in hand is queued again."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be kept away
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Thread(target=_watch, daemon=True).start()
        status = _work(work, argument, connection)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to be cleared up
        sys.exit(status)
    except KeyboardInterrupt:
        # End as if nothing had been done about the signal, so that whoever watches sees what it was.
        sys.stderr.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _work(work: Work[T], argument: T, connection: Connection) -> int:
    """Work, and tell what came of it, if anybody is left to be told; return the exit status."""
    try:
        result = work(argument, Line(connection))
    except Exception as error:
        message = str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"
        with suppress(OSError):
            connection.send((_FAILED, (message, traceback.format_exc())))
        return 1
    with suppress(OSError):
        connection.send((_RESULT, result))
    return 0


def _watch() -> None:
    """Wait until the first process is gone, were it killed, and end this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the clearing up
    raise KeyboardInterrupt
