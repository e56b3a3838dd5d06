"""Many workers on one study, simulated: who waits for what, and what is left of their time for training.

A worker reads what the others did, begins a trial under the study's lock, is timed alone on its device, trains, keeps
what was measured, and ends the trial under the lock again. Beside that it gives a sign of life every ten seconds.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from crowd.events import Alone, Clock, Device, Doing, Resource, Take, Train, go

BEAT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What each step takes, in seconds, where nobody else is about: measured, see :mod:`crowd.parts`."""

    claim: float
    """To begin a trial, under the study's lock, but for the proposal and what grows with the study."""
    claim_per_trial: float = 0.0
    """More of that for each trial that the study has."""
    claim_per_running: float = 0.0
    """More of that for each trial in work."""
    tell: float
    """To end a trial, under the lock."""
    tell_per_running: float = 0.0
    change: float = 0.0
    """To read a trial that another worker began or ended: before the lock is taken, as far as it happened until then.
    """
    proposal: Sequence[tuple[int, float]] = ()
    """Numbers of trials, rising, and what a proposal takes then; between them it is a power of the number."""
    keep: float = 0.0
    """To write what was measured, which waits for the disk."""
    beat: float = 0.0
    """To write a sign of life."""
    connections: int = 0
    """Connections to a server that a worker holds at most."""
    writers: int = 1
    """Who may write to the database at once: 1 for SQLite, and for a server as many as it has cores."""
    poll: float | None = None
    """Pause of those who wait for the lock between two attempts; None where they are served in turn."""

    def proposing(self, trials: int) -> float:
        """Return what a proposal takes in a study of so many trials; beyond the last point as between the last two."""
        points = [(max(1, number), seconds) for number, seconds in self.proposal]
        if not points:
            return 0.0
        if trials <= points[0][0] or len(points) == 1:
            return points[0][1]
        last = min(bisect.bisect_left([number for number, _ in points], trials), len(points) - 1)
        (low, first), (high, second) = points[last - 1], points[last]
        power = math.log(second / first) / math.log(high / low)
        return float(first * (trials / low) ** power)

    def locked(self, trials: int, running: int) -> float:
        """Return for how long a trial has the study's lock, at its beginning and its end together."""
        per_running = self.claim_per_running + self.tell_per_running
        growing = self.claim_per_trial * trials + per_running * running
        return self.claim + self.tell + growing + self.proposing(trials)


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """What is simulated."""

    workers: int
    trial_seconds: float
    """Training of one trial, without what is timed."""
    trials: int
    """Trials that are begun before it ends."""
    known: int = 0
    """Trials that the study has before that."""
    spread: float = 0.1
    """Trainings differ by so much, as a share, either way."""
    timing_seconds: float = 0.0
    """What a trial is timed, alone on its device."""
    per_device: int = 1
    """Workers that share a device."""
    batch: int = 1
    """Trials that are begun at once by one worker, for itself: what grows with the study is then read once for all."""
    is_steady: bool = False
    """Whether steps take as long all the time as they do in a study of ``known`` trials."""
    memoryless: bool = False
    """Whether trainings, claims and ends take exponentially distributed times of the same mean."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it, from when all workers had begun their first trial until the last trial was begun."""

    per_second: float
    """Trials in a second."""
    efficiency: float
    """Training as a share of the workers' time."""
    shares: dict[str, float] = field(default_factory=dict)
    """How busy each part was, 0 to 1: ``lock``, ``database``, ``timing`` (the mean of the devices)."""
    ramp_seconds: float
    """When all workers had begun their first trial."""
    connections: int
    """Connections that a server has to allow."""

    @property
    def busiest(self) -> str:
        """The part that was busiest."""
        return max(self.shares, key=lambda part: self.shares[part])


class Simulation:
    """One crowd at work."""

    def __init__(self, parts: Parts, crowd: Crowd) -> None:
        """Make the workers ready."""
        self._parts, self._crowd = parts, crowd
        self._random = random.Random(crowd.seed)
        self._clock = Clock()
        self._lock = Resource(self._clock, poll=parts.poll, seed=crowd.seed)
        self._database = Resource(self._clock, parts.writers)
        self._devices = [Device(self._clock) for _ in range(-(-crowd.workers // crowd.per_device))]
        self._begun = self._ended = self._running = self._changes = 0
        self._first = 0
        """Workers that have begun a trial."""
        self._mark: tuple[float, int, dict[str, float]] | None = None

    def run(self) -> Outcome:
        """Let all workers work until the last trial is begun."""
        for number in range(self._crowd.workers):
            go(self._clock, self._worker(self._devices[number // self._crowd.per_device]))
        go(self._clock, self._beats())
        self._clock.run(lambda: self._begun >= self._crowd.trials)
        ramp, ended, busy = self._mark or (0.0, 0, dict.fromkeys(self._busy(), 0.0))
        seconds = max(self._clock.now - ramp, 1e-12)
        trained = busy.pop("training", 0.0)
        # Of long trials few end meanwhile: what was trained says more.
        length, progress = self._crowd.trial_seconds, sum(each.progress() for each in self._devices) - trained
        per_second = (progress / length if length else self._ended - ended) / seconds
        servers = {"lock": 1, "database": self._parts.writers, "timing": len(self._devices)}
        return Outcome(
            per_second=per_second,
            efficiency=per_second * self._crowd.trial_seconds / self._crowd.workers,
            shares={part: (now - busy[part]) / seconds / servers[part] for part, now in self._busy().items()},
            ramp_seconds=ramp,
            connections=self._parts.connections * self._crowd.workers,
        )

    def _busy(self) -> dict[str, float]:
        timing = sum(device.timing for device in self._devices)
        return {"lock": self._lock.busy(), "database": self._database.busy(), "timing": timing}

    def _worker(self, device: Device) -> Doing:
        parts, crowd = self._parts, self._crowd
        seen, is_first = 0, True
        while True:
            behind, seen = self._changes - seen, self._changes
            yield parts.change * behind
            yield Take(self._lock)
            yield Take(self._database)
            trials = crowd.known + (0 if crowd.is_steady else self._begun)
            once = parts.change * (self._changes - seen) + parts.claim_per_trial * trials
            once += parts.claim_per_running * self._running + parts.proposing(trials)
            seen = self._changes + crowd.batch
            yield self._drawn(once + crowd.batch * parts.claim)
            self._begun += crowd.batch
            self._changes += crowd.batch
            self._running += crowd.batch
            self._database.give()
            self._lock.give()
            if is_first:
                is_first = False
                self._first += 1
                if self._first == crowd.workers:
                    trained = sum(each.progress() for each in self._devices)
                    self._mark = self._clock.now, self._ended, {**self._busy(), "training": trained}
            for _ in range(crowd.batch):
                if crowd.timing_seconds:
                    yield Alone(device, crowd.timing_seconds)
                yield Train(device, self._training())
                yield Take(self._database)
                yield parts.keep
                self._database.give()
                yield Take(self._lock)
                yield Take(self._database)
                yield self._drawn(parts.tell + parts.tell_per_running * self._running)
                self._ended += 1
                self._changes += 1
                seen += 1
                self._running -= 1
                self._database.give()
                self._lock.give()

    def _beats(self) -> Doing:
        """Give all workers' signs of life: many at once where they are many, or each would be an event of its own."""
        beats = self._crowd.workers / BEAT_SECONDS
        pause = max(1 / beats, self._crowd.trial_seconds / 50)
        took = pause * beats * self._parts.beat
        while took:
            yield max(0.0, pause - took)
            yield Take(self._database)
            yield took
            self._database.give()

    def _drawn(self, mean: float) -> float:
        return self._random.expovariate(1 / mean) if self._crowd.memoryless and mean else mean

    def _training(self) -> float:
        mean, spread = self._crowd.trial_seconds, self._crowd.spread
        if self._crowd.memoryless:
            return self._drawn(mean)
        return mean * self._random.uniform(1 - spread, 1 + spread)


def simulate(parts: Parts, crowd: Crowd) -> Outcome:
    """Return what comes of a crowd; the same for the same seed."""
    return Simulation(parts, crowd).run()


def saturating_workers(parts: Parts, trial_seconds: float, *, known: int = 0) -> float:
    """Return at how many workers the study's lock is never free: W = 1 + T / s.

    T is what a trial takes without the lock, s for how long it has it; as s grows with W it is a quadratic equation.
    Infinite where the lock takes no time.
    """
    fixed = parts.locked(known, 0)
    slope = parts.claim_per_running + parts.tell_per_running
    outside = trial_seconds + parts.keep
    # (W - 1) (fixed + slope W) = outside
    if slope == 0:
        return math.inf if fixed == 0 else 1 + outside / fixed
    middle = fixed - slope
    return (math.sqrt(middle**2 + 4 * slope * (fixed + outside)) - middle) / (2 * slope)
