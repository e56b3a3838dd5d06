"""Several processes that work on one study at once: one small training leaves most of a large GPU idle.

Each of them searches as if it were alone: it resumes the study, and together they stop at the budget. Latencies are
measured one at a time all the same, as :class:`nas.locks.DeviceLock` keeps the others waiting meanwhile.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.synchronize import Event

T = TypeVar("T")

POLL_SECONDS = 0.2
"""Pause between two looks at whether a process that is not ready yet is still alive."""
PATIENCE_SECONDS = 30
"""How long a process that was told to end may take before it is killed."""


@contextmanager
def crew(work: Callable[[T, int, Callable[[], None]], None], argument: T, count: int) -> Iterator[None]:
    """Have so many further processes work while the context lasts.

    When it ends they are waited for; when it ends by an exception, Ctrl-C among them, they are told to end. One that
    fails or is killed leaves its trial to the others, and a line on stderr.

    The context begins when all of them are ready, so that what they do before that is over when anything is timed.

    Args:
        work: What each of them does; a function of a module, as it is looked up by its name there. It is given the
            argument, its number from 1, and a function to call when it is ready.
        argument: What it is given.
        count: How many processes.
    """
    # Spawned and not forked: a forked child cannot use CUDA, and inherits locks that nobody in it will release.
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    events = [context.Event() for _ in range(count)]
    try:
        for number, event in enumerate(events, 1):
            process = context.Process(target=_run, args=(work, argument, number, event), name=f"worker {number + 1}")
            process.start()
            processes.append(process)
        for process, event in zip(processes, events, strict=True):
            while process.is_alive() and not event.wait(timeout=POLL_SECONDS):
                pass
        yield
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE_SECONDS)
            process.kill()
        raise
    for process in processes:
        if process.exitcode:
            print(f"{process.name} of {count + 1} ended with status {process.exitcode}", file=sys.stderr)


def _run(work: Callable[[T, int, Callable[[], None]], None], argument: T, number: int, ready: Event) -> None:
    """Work, and end in order when told to, or when the first process is gone: the trial in hand is queued again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process passes it on, once
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch, daemon=True).start()
    try:
        work(argument, number, ready.set)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the first line tells what the first process will say at length if it is its fault too
        print(f"{multiprocessing.current_process().name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _watch() -> None:
    """Wait until the first process is gone, were it killed, and end this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the clearing up
    raise KeyboardInterrupt
