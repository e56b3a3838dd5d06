"""What each step of a worker takes where nobody else is about: measured on a database, as the simulation needs it.

Each time is the least of several: what a step takes that nothing else on the machine has held up.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from crowd.hand import create, the_space, toy
from crowd.simulation import Parts

from nas.architecture import Architecture
from nas.space import ResolvedSpace
from nas.study import Study, loop
from nas.study.sampler import Known, propose
from nas.study.worker import Worker

KNOWN = (50, 200, 1000, 2000, 4000)
"""Numbers of trials at which a proposal is timed."""
RUNNING = (0, 50, 100)
"""Numbers of trials in work at which a claim and an end are timed."""
TRIALS = (50, 150)
"""Numbers of ended trials at which a claim is timed."""
TIMES = 5


# What follows was taken on two cores of an AMD EPYC at a load of 1 to 3.
POINTS = ((50, 0.0155), (200, 0.0534), (1000, 0.208), (2000, 0.764), (4000, 3.66))
"""What :func:`proposals` gave for the default sampler, in seconds."""
SQLITE = Parts(
    claim=0.015,
    claim_per_trial=1e-5,
    claim_per_running=1.2e-4,
    tell=0.0105,
    change=3.6e-4,
    proposal=POINTS,
    keep=0.005,
    beat=0.002,
)
"""On SQLite, whose workers are on one machine: each looks whether the files of the others are locked."""
POSTGRESQL = Parts(
    claim=0.031,
    claim_per_trial=1e-5,
    claim_per_running=3e-5,
    tell=0.025,
    change=4.5e-4,
    proposal=POINTS,
    keep=0.005,
    beat=0.002,
    connections=3,
    writers=4,
)
"""On a PostgreSQL server of the same machine, with workers elsewhere; a network adds its delay to each statement."""
READ_THRICE = {
    "sqlite": dataclasses.replace(SQLITE, change=0.0, claim_per_running=7.5e-4, tell_per_running=3.5e-4),
    "postgresql": dataclasses.replace(POSTGRESQL, change=0.0, claim_per_running=1e-3, tell_per_running=5e-4),
}
"""As it would be if every claim and every end read all trials in work anew, as Optuna's storage does."""


def least(call: Callable[[], Any]) -> float:
    """Return the least time of several calls, in seconds."""
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def proposals(sampler: str) -> list[tuple[int, float]]:
    """Return what a proposal takes in studies of :data:`KNOWN` trials, all of them ended."""
    space, generator = the_space(), random.Random(0)
    known = {each.id: each for each in _controls(space)}
    found = []
    for count in KNOWN:
        while len(known) < count:
            entry = _drawn(space, generator)
            known.setdefault(entry.id, entry)
        entries = list(known.values())

        def once(entries: Sequence[Known] = entries) -> None:
            propose(space, entries, sampler=sampler, seed=len(entries))

        once()
        began = time.perf_counter()
        once()
        first = time.perf_counter() - began
        found.append((count, first if first > 1 else min(first, least(once))))
    return found


def _controls(space: ResolvedSpace) -> list[Known]:
    return [_entry(control.architecture, dict(control.choices)) for control in space.controls()]


def _drawn(space: ResolvedSpace, generator: random.Random) -> Known:
    params: dict[str, Any] = {}

    def choose(name: str, options: Sequence[Any]) -> Any:
        params[name] = generator.choice(list(options))
        return params[name]

    return _entry(space.sample(choose), params)


def _entry(architecture: Architecture, params: dict[str, Any]) -> Known:
    found = toy.evaluate(architecture)
    return Known(
        id=architecture.id, params=params, values=(found.accuracy, found.nominal_ms), nominal_ms=None, curve=found.curve
    )


def measure(url: str, *, sampler: str, writers: int, connections: int = 0) -> tuple[Parts, list[dict[str, float]]]:
    """Return the parts on a database without a study, and the times that their straight lines were fitted to.

    Args:
        url: The database.
        sampler: One of :data:`nas.study.SAMPLERS`.
        writers: As :class:`Parts` has it.
        connections: As well.
    """
    study, other = create(url, "toy"), create(url, "toy")
    rows: list[dict[str, float]] = []
    with Worker(study.store) as worker, Worker(other.store) as elsewhere:
        for trials in TRIALS:
            _fill(study, trials)
            rows.append(_row(study, worker, 0))
        change = _change(study, other, elsewhere)
        for running in RUNNING[1:]:
            while study.tally().running < running:
                _claim(other, elsewhere)
            rows.append(_row(study, worker, running))
        generator = random.Random(1)
        keep = least(lambda: _keep(study, generator))
        beat = least(lambda: study.store.beat(worker.id))
    study.close()
    other.close()
    line = np.array([[1, row["trials"], row["running"]] for row in rows])
    claim, *_ = np.linalg.lstsq(line, np.array([row["claim"] for row in rows]), rcond=None)
    tell, *_ = np.linalg.lstsq(line[:, [0, 2]], np.array([row["tell"] for row in rows]), rcond=None)
    parts = Parts(
        claim=float(claim[0]),
        claim_per_trial=max(0.0, float(claim[1])),
        claim_per_running=max(0.0, float(claim[2])),
        tell=float(tell[0]),
        tell_per_running=max(0.0, float(tell[1])),
        change=change,
        proposal=proposals(sampler),
        keep=keep,
        beat=beat,
        connections=connections,
        writers=writers,
    )
    return parts, rows


def _fill(study: Study, trials: int) -> None:
    loop.run(study, toy.evaluate, space=the_space(), budget=trials, sampler="random")


def _begin(study: Study, worker: Worker) -> Any:
    """Begin a trial as a search does; the proposal is a draw, which takes next to nothing."""
    trial, _ = loop._next(study, worker, the_space(), 10**6, sampler="random", seed=0, patience=None, stops=False)
    assert trial is not None
    return trial


def _claim(study: Study, worker: Worker) -> Any:
    """Begin one of several trials of a worker: a search would take the earlier ones for lost."""
    with study.lock():
        proposal = propose(the_space(), study.tally().known, sampler="random", seed=0)
        assert proposal is not None
        return study.claim(proposal, worker, the_space())


def _row(study: Study, worker: Worker, running: int) -> dict[str, float]:
    """Return the least times of a claim and of an end."""
    claims, tells = [], []
    trials = study.tally().finished
    for _ in range(TIMES):
        began = time.perf_counter()
        trial = _begin(study, worker)
        claims.append(time.perf_counter() - began)
        evaluation = toy.evaluate(study.architecture(trial))
        study.store.put(study.architecture(trial), study.protocol_hash, evaluation)
        began = time.perf_counter()
        study.finish(trial, evaluation)
        tells.append(time.perf_counter() - began)
    return {"trials": trials, "running": running, "claim": min(claims), "tell": min(tells)}


def _change(study: Study, other: Study, elsewhere: Worker) -> float:
    """Return what it takes to read a trial that another worker began or ended."""
    count, found = 20, []
    base = least(study._trials)
    for _ in range(3):
        trials = [_claim(other, elsewhere) for _ in range(count)]
        for trial in trials:
            other.finish(trial, toy.evaluate(other.architecture(trial)))
        began = time.perf_counter()
        study._trials()
        found.append(time.perf_counter() - began - base)
    return max(0.0, min(found) / count)


def _keep(study: Study, generator: random.Random) -> None:
    params: dict[str, Any] = {}

    def choose(name: str, options: Sequence[Any]) -> Any:
        params[name] = generator.choice(list(options))
        return params[name]

    architecture = the_space().sample(choose)
    study.store.put(architecture, "another", toy.evaluate(architecture))
