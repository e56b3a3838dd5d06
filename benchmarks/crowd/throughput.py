"""How many cheap trials do some processes finish in a second, on one study of one database, with a dashboard open?"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nas.dashboard.server import HOST

HAND = Path(__file__).with_name("hand.py")
PAGES = ("/api/studies", "/api/studies/1", "/api/studies/1/param_importances", "/csv/1")
"""What the dashboard's pages ask for again and again; a study that is alone in its database has the number 1."""
PAUSE_SECONDS = 0.1
"""Pause between two requests: some ten times as many as an open page makes."""
LOOK_SECONDS = 2.0
"""Pause between two counts of the connections."""
LIMIT_SECONDS = 600.0


class RunError(RuntimeError):
    """A process of the run failed; the message has its last words."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a run."""

    workers: int
    trials: int
    trial_seconds: float
    sampler: str
    seconds: float
    """From the start to the end of the last process."""
    claims: tuple[float, ...]
    """For how long each claim had the lock, in seconds, in their order."""
    tells: tuple[float, ...]
    """The same of the ends of trials."""
    computed: float
    """CPU seconds of a worker while it had the lock, for one trial: median of a claim and of a tell, together."""
    outside: float
    """Seconds of one trial that are neither its length, nor the lock, nor waiting for it: median."""
    asked: int = 0
    """Requests to the dashboard."""
    errors: tuple[str, ...] = ()
    """Requests that were not answered as they should be."""
    fewest: int = 0
    """Trials of the process that had the fewest."""
    connections: int = 0
    """Most connections to a server that were open at once, the dashboard's among them."""
    served: float = 0.0
    """CPU seconds of the server for one trial."""

    @property
    def per_second(self) -> float:
        """Trials in a second."""
        return self.trials / self.seconds

    @property
    def lock_seconds(self) -> float:
        """Median of a claim and of a tell, together."""
        return statistics.median(self.claims) + statistics.median(self.tells)


@dataclass
class Poller:
    """Asks a dashboard for one page after the other."""

    port: int
    asked: int = 0
    errors: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def loop(self) -> None:
        """Ask until told to stop."""
        while not self._stop.wait(PAUSE_SECONDS):
            page = PAGES[self.asked % len(PAGES)]
            try:
                with urllib.request.urlopen(f"http://{HOST}:{self.port}{page}", timeout=60) as answer:
                    answer.read()
            except (urllib.error.URLError, OSError) as error:
                self.errors.append(f"{page}: {error}")
            self.asked += 1

    def stop(self) -> None:
        """Have it stop."""
        self._stop.set()


def measure(
    url: str,
    folder: Path,
    *,
    workers: int,
    trials: int,
    seconds: float = 0.0,
    sampler: str = "random",
    polled: bool = True,
    connections: Callable[[], int] = lambda: 0,
    server_seconds: Callable[[], float] = lambda: 0.0,
) -> Measured:
    """Have so many processes work on a new study until it has so many trials.

    Args:
        url: A database without a study.
        folder: An empty folder.
        workers: Processes.
        trials: Budget of the study.
        seconds: What an evaluation takes.
        sampler: One of :data:`nas.study.SAMPLERS`.
        polled: Whether a dashboard is open, read-only, and asked for pages all the time.
        connections: Returns how many connections the server has.
        server_seconds: Returns how many CPU seconds it has taken.

    Raises:
        RunError: If a process failed, or said anything, or the study is not what it should be.
    """
    _create(url)
    with contextlib.ExitStack() as stack:
        poller = stack.enter_context(_dashboard(url, folder)) if polled else None
        commands = [("work", url, "toy", trials, seconds, sampler, folder, number) for number in range(workers)]
        processes = [_start(folder, f"worker-{number}", *command) for number, command in enumerate(commands)]
        stack.callback(_end, processes)
        _await(lambda: all((folder / f"ready-{number}").exists() for number in range(workers)), processes, folder)
        begun = time.monotonic()
        (folder / "go").touch()
        most, before = 0, server_seconds()
        looked = begun
        while any(process.poll() is None for process in processes):
            if time.monotonic() - looked > LOOK_SECONDS:
                looked, most = time.monotonic(), max(most, connections())
            time.sleep(0.02)
            if time.monotonic() - begun > LIMIT_SECONDS:
                raise RunError(f"{workers} processes did not finish {trials} trials in {LIMIT_SECONDS:.0f} s")
        served = server_seconds() - before
    _check(processes, folder)
    notes = [json.loads((folder / f"done-{number}.json").read_text()) for number in range(workers)]
    told = sorted(note for each in notes for note in each if note[0] == "tell")
    claimed = sorted((note for each in notes for note in each if note[0] == "claim"), key=lambda note: note[2])
    return Measured(
        workers=workers,
        trials=trials,
        trial_seconds=seconds,
        sampler=sampler,
        seconds=max(note[3] for note in told) - begun,
        claims=tuple(gone - had for _, _, had, gone, _ in claimed[:trials]),
        tells=tuple(gone - had for _, _, had, gone, _ in told),
        computed=statistics.median(note[4] for note in claimed[:trials]) + statistics.median(note[4] for note in told),
        outside=statistics.median(_outside(notes)) - seconds,
        asked=poller.asked if poller else 0,
        errors=tuple(poller.errors) if poller else (),
        fewest=min(Counter(note[0] for note in each)["tell"] for each in notes),
        connections=most,
        served=served / trials,
    )


def _outside(notes: list[list[tuple[str, float, float, float, float]]]) -> list[float]:
    """Return for each trial what passed between two times at the lock, at both of its ends."""
    found = []
    for each in notes:
        gaps = [later[1] - earlier[3] for earlier, later in itertools.pairwise(each)]
        found += [first + second for first, second in zip(gaps[::2], gaps[1::2], strict=False)]
    return found or [0.0]


def _create(url: str) -> None:
    """Make the study by a process of its own: this one stays light."""
    code = f"import sys; sys.path.insert(0, {str(HAND.parent)!r}); import hand; hand.create({url!r}, 'toy').close()"
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


def _environment() -> dict[str, str]:
    root = str(HAND.parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # Threads that spin for each other would take the cores from the other processes.
    return {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": paths}


def _start(folder: Path, name: str, *arguments: object) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.err").open("wb") as words:
        return subprocess.Popen(
            [sys.executable, str(HAND), *map(str, arguments)], stderr=words, stdout=words, env=_environment()
        )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def _await(is_so: Callable[[], bool], processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
            raise RunError(f"a process was not ready: {_words(folder)}")
        time.sleep(0.02)


def _check(processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    if any(process.returncode for process in processes) or _words(folder):
        raise RunError(f"exit statuses {[process.returncode for process in processes]}: {_words(folder)}")


def _words(folder: Path) -> str:
    """Return the last that processes said, on either stream."""
    return "; ".join(f"{file.stem}: {file.read_text()[-500:]}" for file in folder.glob("*.err") if file.stat().st_size)


@contextmanager
def _dashboard(url: str, folder: Path) -> Iterator[Poller]:
    """Have a dashboard open, and asked."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    process = _start(folder, "dashboard", "dashboard", url, "toy", folder, port)
    poller = Poller(port)
    thread = threading.Thread(target=poller.loop)
    try:
        _await((folder / "serving").exists, [process], folder)
        thread.start()
        yield poller
        if process.poll() is not None:
            poller.errors.append(f"the dashboard ended with status {process.returncode}")
    finally:
        poller.stop()
        if thread.ident is not None:
            thread.join()
        _end([process])
