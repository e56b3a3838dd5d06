"""After the trials: further seeds for the bare backbone, and for the members of the front until it stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nas.architecture import Architecture
from nas.confirm import unconfirmed
from nas.evaluation import reason_of
from nas.front import Row, bare_row
from nas.seeds import Replicate, further_seeds
from nas.study.ledger import Study
from nas.study.storage import DATABASE_ERRORS
from nas.study.worker import Worker

Train = Callable[[Architecture, int], Replicate]
"""Trains an architecture with a seed, or finds that in the store; raises EvaluationError where it cannot."""
Job = tuple[Architecture, int]
"""An architecture, and the seed to train it with."""
Share = tuple[int, int]
"""Which of how many equal shares of the work, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What further seeds have shown."""

    members: int
    """Members of the front at the end."""
    confirmed: int
    """How many of them have all the further seeds that were asked for."""
    failures: tuple[str, ...] = ()
    """What could not be trained, and why."""
    interrupted: bool = False
    """Whether it was asked to stop while something was left to train."""


def confirm(
    study: Study,
    train: Train,
    *,
    repeats: int,
    further: int,
    on_replicate: Callable[[Architecture, Replicate], None] | None = None,
    share: Share = (0, 1),
    stop: Callable[[], bool] = lambda: False,
) -> Confirmation:
    """Train the bare backbone ``repeats`` times more, and every member of the front ``further`` times.

    Means move when seeds are added, and what was not confirmed may then appear on the front. So the front is redrawn
    and its new members are trained again, until all of them are confirmed; each round confirms a trial, so it ends.
    Several processes may take a share each: number k of n trains what falls to it, and does not wait for the others.
    One of them then does the rest alone.

    Args:
        study: The study, with its trials finished.
        train: Trains an architecture with a seed.
        repeats: Further seeds of the bare backbone.
        further: Further seeds of each member of the front.
        on_replicate: Called after each training of this process.
        share: Which of how many equal shares to train, counted from 0.
        stop: Looked at before each training: once it is true, none is started any more.

    Raises:
        ValueError: If a number is out of range.
    """
    failures: dict[tuple[str, int], str] = {}
    of_bare, of_front = further_seeds(study.protocol, repeats), further_seeds(study.protocol, further)

    def train_missing(rows: Iterable[Row], seeds: Iterable[int]) -> bool:
        jobs = [(row.architecture, seed) for row, seed in itertools.product(rows, seeds)]
        jobs = [job for job in jobs if _falls_to(job, share)]
        return _train_missing(study, train, jobs, failures, on_replicate, stop)

    interrupted = False
    try:
        with Worker(study.store):  # so that others see that somebody is at work
            bare = bare_row(study.rows())
            train_missing([] if bare is None else [bare], of_bare)
            while train_missing(unconfirmed(study.rows(), further), of_front):
                pass
    except _Interrupted:
        interrupted = True
    members = [row for row in study.rows() if row.on_front]
    return Confirmation(
        members=len(members),
        confirmed=sum(row.seeds > further for row in members),
        failures=tuple(failures.values()),
        interrupted=interrupted,
    )


class _Interrupted(Exception):  # noqa: N818 - nothing is wrong
    """No further training is to begin."""


def attempt(study: Study, train: Train, architecture: Architecture, seed: int) -> Replicate | str:
    """Return a training, or why it failed: as in a search, one that fails does not end them all.

    What another process is training just now is waited for: it is in the database then, where ``train`` finds it.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, StorageError: If the database fails.
    """
    try:
        with study.store.claim(architecture.id, seed):
            return train(architecture, seed)
    except DATABASE_ERRORS:
        raise
    except Exception as error:
        return reason_of(error)


def _falls_to(job: Job, share: Share) -> bool:
    """Tell whether a job belongs to a share, which does not depend on what other jobs there are at the moment."""
    architecture, seed = job
    number, count = share
    return (int(architecture.id, 16) + seed) % count == number


def _train_missing(
    study: Study,
    train: Train,
    jobs: Iterable[Job],
    failures: dict[tuple[str, int], str],
    on_replicate: Callable[[Architecture, Replicate], None] | None,
    stop: Callable[[], bool],
) -> bool:
    """Train one after the other what the database does not have; tell whether there was anything.

    Raises:
        _Interrupted: If it is to stop while something is missing.
    """
    wanted = {(architecture.id, seed): (architecture, seed) for architecture, seed in jobs}
    began = False
    while True:
        known = {(each.architecture, each.seed) for found in study.replicates().values() for each in found}
        missing = [job for key, job in wanted.items() if key not in known and key not in failures]
        if not missing:
            return began
        if stop():
            raise _Interrupted
        began = True
        study.check_database()
        architecture, seed = missing[0]
        replicate = attempt(study, train, architecture, seed)
        if isinstance(replicate, str):
            failures[architecture.id, seed] = f"{architecture.describe()} with seed {seed}: {replicate}"
            continue
        if on_replicate is not None:
            on_replicate(architecture, replicate)
