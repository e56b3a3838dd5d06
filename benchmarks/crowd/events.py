"""Discrete events in plain Python: a clock, what is waited for in turn or by asking again, and a device that is timed.

What happens is written as generators, which yield what they wait for: seconds, :class:`Take` or :class:`Train`.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass


class Clock:
    """Calls functions at their times, in seconds; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have a function called so many seconds from now, 0 or more."""
        heapq.heappush(self._events, (self.now + seconds, next(self._count), call))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let time pass until it is over, or nothing is left to happen."""
        while self._events and not is_over():
            self.now, _, call = heapq.heappop(self._events)
            call()


class Resource:
    """So many servers, for which is waited in turn; with ``poll``, by asking again every so many seconds instead."""

    def __init__(self, clock: Clock, servers: int = 1, *, poll: float | None = None, seed: int = 0) -> None:
        self._clock = clock
        self.servers = servers
        self._free = servers
        self._poll = poll
        self._random = random.Random(seed)
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy, self._since = 0.0, 0.0

    def take(self, call: Callable[[], None]) -> None:
        """Have a function called once a server is there for it."""
        if self._free:
            self._count()
            self._free -= 1
            call()
        elif self._poll is None:
            self._waiting.append(call)
        else:
            # Processes that wait do not keep step: the system wakes them a little late.
            self._clock.after(self._poll * self._random.uniform(1.0, 1.05), lambda: self.take(call))

    def give(self) -> None:
        """Let go of a server."""
        if self._waiting:
            self._clock.after(0, self._waiting.popleft())
            return
        self._count()
        self._free += 1

    def busy(self) -> float:
        """Return the seconds that servers were taken, of all of them together."""
        self._count()
        return self._busy

    def _count(self) -> None:
        self._busy += (self._clock.now - self._since) * (self.servers - self._free)
        self._since = self._clock.now


class Device:
    """Trains several at once, each as quickly as if it were alone, and nobody while one is timed alone on it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timed: deque[tuple[float, Callable[[], None]]] = deque()
        self._is_timing = False
        self.timing = 0.0
        """Seconds that it was timed."""
        self._trained, self._since = 0.0, 0.0
        self._progress, self._counted = 0.0, 0.0
        self._training: dict[int, tuple[float, Callable[[], None]]] = {}
        self._count = itertools.count()

    def time(self, seconds: float, call: Callable[[], None]) -> None:
        """Have a function called when so many seconds of timing, alone and in turn, are over."""
        self._timed.append((seconds, call))
        if not self._is_timing:
            self._trained = self._open()
            self._is_timing = True
            self._next()

    def _next(self) -> None:
        seconds, call = self._timed.popleft()

        def done() -> None:
            self.timing += seconds
            if self._timed:
                self._next()
            else:
                self._is_timing, self._since = False, self._clock.now
                for number, (end, _) in list(self._training.items()):
                    self._look(number, end)
            call()

        self._clock.after(seconds, done)

    def train(self, seconds: float, call: Callable[[], None]) -> None:
        """Have a function called when so many seconds of training are over."""
        number, end = next(self._count), self._open() + seconds
        self.progress()
        self._training[number] = end, call
        if not self._is_timing:
            self._look(number, end)

    def progress(self) -> float:
        """Return the seconds of training that were done until now, of all trainings together."""
        now = self._open()
        self._progress += len(self._training) * (now - self._counted)
        self._counted = now
        return self._progress

    def _open(self) -> float:
        """Return for how long nobody was timed until now."""
        return self._trained + (0.0 if self._is_timing else self._clock.now - self._since)

    def _look(self, number: int, end: float) -> None:
        """Look at a training again when it will be over if nothing is timed meanwhile."""

        def look() -> None:
            if not self._is_timing and number in self._training and self._open() >= end - 1e-9:
                self.progress()
                self._training.pop(number)[1]()

        self._clock.after(max(0.0, end - self._open()), look)


@dataclass(frozen=True)
class Take:
    """Wait for a server of a resource."""

    resource: Resource


@dataclass(frozen=True)
class Alone:
    """Be timed alone on a device, for so many seconds."""

    device: Device
    seconds: float


@dataclass(frozen=True)
class Train:
    """Train on a device, for so many seconds."""

    device: Device
    seconds: float


Doing = Generator["float | Take | Alone | Train", None, None]


def go(clock: Clock, doing: Doing) -> None:
    """Go on with what waits for nothing any more."""
    wish = next(doing, None)

    def on() -> None:
        go(clock, doing)

    if wish is None:
        return
    if isinstance(wish, Take):
        wish.resource.take(on)
    elif isinstance(wish, Alone):
        wish.device.time(wish.seconds, on)
    elif isinstance(wish, Train):
        wish.device.train(wish.seconds, on)
    else:
        clock.after(wish, on)
